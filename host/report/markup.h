#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cbtm::report {

/// Text as it may stand in HTML and SVG, in elements and in quoted attributes. Control characters, which neither may
/// hold, become U+FFFD.
std::string escape(std::string_view text);

/// "41.37", "4.137", "4137": four digits where there is room for them; "–" if it is not finite.
std::string format_perplexity(double value);
/// "950", "1.2M", "410K": three digits.
std::string format_short(double value);
/// "12,345"; "–" if it is not finite.
std::string format_whole(double value);
/// Of a ratio to 1: "−3.2 %", "+0.4 %"; "–" if it is not finite.
std::string format_change(double ratio);
/// As short as it can be said to `digits` significant digits: "0.0002", "1e-06".
std::string format_number(double value, int digits = 4);

/// "2026-11-25T01:17:07Z" -> "2026-11-25 01:17 UTC"; anything else as it is.
std::string readable_time(const std::string& time);

/// <div> that scrolls by itself where its content is wider than the page; `label` is for screen readers.
std::string scroll_box(std::string_view label, std::string_view content);

/// A bar of `share` (0 to 1) of its cell's width.
std::string share_bar(double share);

}  // namespace cbtm::report
