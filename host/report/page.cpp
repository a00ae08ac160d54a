#include "report/page.h"

#include <fmt/format.h>

#include "report/markup.h"
#include "report/page_style.h"

namespace cbtm::report {

std::string html_page(std::string_view title, std::string_view header, std::string_view opening,
                      const std::vector<PageSection>& sections) {
  std::string body, links;
  for (const auto& [name, html] : sections) {
    if (html.empty()) continue;
    body += html;
    const size_t begin = html.find("id=\"") + 4;
    links += fmt::format("<a href=\"#{}\">{}</a>\n", html.substr(begin, html.find('"', begin) - begin), name);
  }
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<title>{} · cbtm</title>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<style>{}</style></head>\n<body>\n{}<main>\n{}<nav aria-label=\"Parts\">{}</nav>\n{}</main>\n</body></html>\n",
      escape(title), kPageStyle, header, opening, links, body);
}

}  // namespace cbtm::report
