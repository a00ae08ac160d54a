// The functions of {fmt}, compiled once. Its Debian package has only their source, as a header, and a shared library,
// which a static link cannot take. Where this does not suit the version that is installed, cmake/Dependencies.cmake
// defines FMT_HEADER_ONLY, and every file that formats compiles its own.
#ifndef FMT_HEADER_ONLY
#include <fmt/format-inl.h>

// What the functions above reach through templates that the headers declare and do not define.
namespace fmt::detail {
template auto dragonbox::to_decimal(float number) noexcept -> dragonbox::decimal_fp<float>;
template auto dragonbox::to_decimal(double number) noexcept -> dragonbox::decimal_fp<double>;
template locale_ref::locale_ref(const std::locale& locale);
template auto locale_ref::get<std::locale>() const -> std::locale;
template auto thousands_sep_impl(locale_ref locale) -> thousands_sep_result<char>;
template auto decimal_point_impl(locale_ref locale) -> char;
template void buffer<char>::append(const char* begin, const char* end);
}  // namespace fmt::detail
#endif
