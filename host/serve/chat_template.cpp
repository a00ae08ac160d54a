#include "serve/chat_template.h"

#include <fstream>
#include <iterator>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

constexpr std::string_view kRole = "{{role}}", kContent = "{{content}}";

}  // namespace

ChatTemplate::ChatTemplate() : ChatTemplate("{{role}}: {{content}}\n", "the default template") {}

ChatTemplate::ChatTemplate(std::string text, const std::string& where) : text_(std::move(text)) {
  const size_t content = text_.find(kContent);
  if (content == std::string::npos || text_.find(kRole) > content)
    fail("{}: a chat template holds {{{{role}}}}, then {{{{content}}}}", where);
  before_ = text_.substr(0, content);
  after_ = text_.substr(content + kContent.size());
  std::string rest = before_ + after_;
  for (size_t role = rest.find(kRole); role != std::string::npos; role = rest.find(kRole))
    rest.erase(role, kRole.size());
  for (const char* brace : {"{{", "{%", "{#"})
    if (rest.find(brace) != std::string::npos)
      fail("{}: only {{{{role}}}} and one {{{{content}}}} are understood in a chat template, and it has more", where);
}

ChatTemplate ChatTemplate::load(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(stream), {});
  if (!stream.is_open() || stream.bad()) fail("{}: cannot be read", file.string());
  return ChatTemplate(std::move(text), file.string());
}

std::string ChatTemplate::before(const std::string& role) const {
  std::string text = before_;
  for (size_t at = text.find(kRole); at != std::string::npos; at = text.find(kRole, at + role.size()))
    text.replace(at, kRole.size(), role);
  return text;
}

std::string ChatTemplate::apply(const std::vector<std::pair<std::string, std::string>>& messages) const {
  std::string text;
  for (const auto& [role, content] : messages) {
    std::string after = after_;
    for (size_t at = after.find(kRole); at != std::string::npos; at = after.find(kRole, at + role.size()))
      after.replace(at, kRole.size(), role);
    text += before(role) + content + after;
  }
  text += before("assistant");
  return text.substr(0, text.find_last_not_of(" \t") + 1);  // tokens begin with their space
}

std::string ChatTemplate::stop() const {
  const std::string text = after_ + before("user");
  return text.substr(0, text.find_last_not_of(" \t\n") + 1);
}

}  // namespace cbtm
