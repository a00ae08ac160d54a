#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "serve/generation_request.h"

namespace cbtm {

/// Builds the reply to one request from the updates of its texts: one JSON object, or the events of a stream
/// (docs/serving.md, 'Completions', 'Chats', 'Streams').
class GenerationReply {
 public:
  GenerationReply(GenerationRequestBody request, std::string id, int64_t created);
  ~GenerationReply();

  const GenerationRequestBody& request() const { return request_; }
  const std::string& id() const { return id_; }

  /// Takes an update in.
  void add(TextUpdate&& update);
  /// The events of a stream for what was added since the last call: one for each text that has something new.
  std::string new_events();
  bool has_new() const { return !changed_.empty(); }
  /// Whether all texts have ended.
  bool complete() const { return ended_ == texts_.size(); }
  /// The first error of a text, or "". Then the request has failed.
  const std::string& error() const { return error_; }
  /// The whole reply.
  Json whole() const;
  /// The last events of a stream.
  std::string last_events() const;
  /// {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"}.
  Json usage() const;
  int64_t prompt_tokens() const;
  int64_t completion_tokens() const { return completion_tokens_; }
  /// The finish of the texts, if they all have the same one; else "mixed".
  std::string finish() const;

 private:
  struct Text;

  void begin_text(Text& text, TextUpdate& update);
  void add_tokens(Text& text, TextUpdate& update);
  void add_scored(Text& text, int32_t id, const TokenScore* score);
  Json choice(size_t number, const Text& text, bool whole) const;
  std::vector<const Text*> chosen(size_t prompt) const;
  Json chunk(Json choices) const;
  Json mixing() const;
  Json chat_message(const Text& text, bool whole) const;

  GenerationRequestBody request_;
  std::string id_;
  int64_t created_;
  std::vector<std::unique_ptr<Text>> texts_;
  std::vector<size_t> changed_;  ///< texts with something new, of a stream
  size_t ended_ = 0;
  int64_t completion_tokens_ = 0;
  std::vector<double> expert_tokens_;  ///< by cluster
  std::string error_;
};

/// "data: {...}\n\n".
std::string event_of(const Json& json);
/// JSON as replies hold it: in one line, ill-formed UTF-8 replaced.
std::string dumped(const Json& json);

}  // namespace cbtm
