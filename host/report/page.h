#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cbtm::report {

/// What links to a part of a page say, and the part: a <section> with an id, or nothing.
using PageSection = std::pair<const char*, std::string>;

/// A whole HTML page, without anything from elsewhere: `header`, then in <main> `opening`, links to the sections and
/// the sections. Empty sections are left out. `title` is text, all else HTML.
std::string html_page(std::string_view title, std::string_view header, std::string_view opening,
                      const std::vector<PageSection>& sections);

}  // namespace cbtm::report
