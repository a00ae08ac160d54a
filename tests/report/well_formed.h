#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cbtm {

/// What is wrong with the nesting or the quoting of a page of ours, "" if nothing: every element is closed in its turn
/// (but for meta), attributes are quoted, and no bare & or < stands in the text. Style sheets are passed over.
inline std::string markup_fault(std::string_view html) {
  std::vector<std::string> open;
  size_t place = html.find("<html");
  if (place == std::string_view::npos) return "no <html>";
  while (place < html.size()) {
    if (html[place] == '&') {
      const size_t end = html.find(';', place);
      if (end == std::string_view::npos || end - place > 7) return "bare & at " + std::to_string(place);
    }
    if (html[place] != '<') {
      ++place;
      continue;
    }
    size_t end = place + 1;
    bool quoted = false;
    for (; end < html.size() && (quoted || html[end] != '>'); ++end) {
      if (html[end] == '"') quoted = !quoted;
      if (html[end] == '<') return "< inside a tag at " + std::to_string(place);
    }
    if (end >= html.size()) return "tag without end at " + std::to_string(place);
    const std::string_view tag = html.substr(place + 1, end - place - 1);
    const bool closing = tag.starts_with('/');
    const std::string name(tag.substr(closing ? 1 : 0, tag.find_first_of(" /", 1) - (closing ? 1 : 0)));
    if (closing) {
      const std::string closed(tag.substr(1));
      if (open.empty() || open.back() != closed)
        return "</" + closed + "> closes " + (open.empty() ? "nothing" : open.back()) + " at " + std::to_string(place);
      open.pop_back();
    } else if (!tag.ends_with('/') && name != "meta") {
      open.push_back(name);
    }
    place = end + 1;
    if (name == "style" && !closing) place = html.find("</style>", place);
  }
  return open.empty() ? "" : "<" + open.back() + "> is not closed";
}

/// How often `part` stands in `whole`.
inline size_t occurrences(std::string_view whole, std::string_view part) {
  size_t count = 0;
  for (size_t place = whole.find(part); place != std::string_view::npos; place = whole.find(part, place + part.size()))
    ++count;
  return count;
}

/// The part of a page between `from` and the next `to`.
inline std::string_view between(std::string_view whole, std::string_view from, std::string_view to) {
  const size_t begin = whole.find(from);
  if (begin == std::string_view::npos) return {};
  return whole.substr(begin, whole.find(to, begin) - begin);
}

}  // namespace cbtm
