#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace cbtm {

/// Makes one text of a conversation, for models that only continue texts. The template is written once for each
/// message, with its {{role}} and {{content}}; then comes its beginning, up to {{content}}, with the role "assistant".
class ChatTemplate {
 public:
  /// "{{role}}: {{content}}" in a line each.
  ChatTemplate();
  /// Reads a file of this kind. Throws Error if it uses anything else in braces.
  static ChatTemplate load(const std::filesystem::path& file);

  /// Roles and contents, in order.
  std::string apply(const std::vector<std::pair<std::string, std::string>>& messages) const;
  /// Where the next message of the user would begin: the model's answer ends before it.
  std::string stop() const;
  const std::string& text() const { return text_; }

 private:
  explicit ChatTemplate(std::string text, const std::string& where);
  std::string before(const std::string& role) const;

  std::string text_;
  std::string before_, after_;  ///< {{content}}
};

}  // namespace cbtm
