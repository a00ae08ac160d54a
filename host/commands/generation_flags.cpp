#include "commands/generation_flags.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"

namespace cbtm {

GenerationOptions generation_options(const CommandLine& line) {
  GenerationOptions options;
  options.new_tokens_max = line.integer("max-new-tokens", 1, 1 << 24);
  const double temperature = line.number("temperature", 0, 1e4);
  options.sampling.greedy = line.get<bool>("greedy") || temperature == 0;
  for (const char* flag : {"sampling-top-k", "sampling-top-p"})
    if (options.sampling.greedy && line.given(flag))
      fail_usage("--{} is of sampling, but {} takes the most likely token; leave one of them out", flag,
                 temperature == 0 ? "--temperature 0" : "--greedy");
  if (options.sampling.greedy && temperature != 0 && line.given("temperature"))
    fail_usage("--temperature is of sampling, but --greedy takes the most likely token; leave one of them out");
  if (!options.sampling.greedy) options.sampling.filter.temperature = line.number("temperature", 1e-4, 1e4);
  options.sampling.filter.top_k = line.integer("sampling-top-k", 0);
  options.sampling.filter.top_p = line.number("sampling-top-p", 1e-9, 1);
  options.sampling.repetition_penalty = line.number("repetition-penalty", 1e-3, 1e3);
  if (line.given("stop")) options.stop = line.get<std::vector<std::string>>("stop");
  std::erase(options.stop, "");
  options.ignore_eos = line.get<bool>("ignore-eos");
  options.seed = line.common().seed;
  return options;
}

std::vector<std::vector<int32_t>> read_id_lists(const std::filesystem::path& path) {
  Json json = read_json_file(path);
  if (json.is_object() && json.contains("ids")) json = json["ids"];
  if (json.is_array() && !json.empty() && json[0].is_number()) json = Json::array({json});
  if (!json.is_array() || json.empty()) fail("{}: must hold lists of token ids, [[1, 2, 3], ...]", path.string());
  std::vector<std::vector<int32_t>> lists;
  for (const Json& list : json) {
    if (!list.is_array()) fail("{}: must hold lists of token ids, [[1, 2, 3], ...]", path.string());
    lists.emplace_back();
    for (const Json& id : list) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX)
        fail("{}: {} is no token id", path.string(), id.dump());
      lists.back().push_back(id.get<int32_t>());
    }
  }
  return lists;
}

bool asks_at_terminal(const CommandLine& line) {
  return !line.given("prompt") && !line.given("prompt-ids") && isatty(STDIN_FILENO) != 0;
}

std::vector<std::vector<int32_t>> read_prompts(const CommandLine& line, const Tokenizer* tokenizer) {
  if (line.given("prompt-ids")) return read_id_lists(line.path("prompt-ids"));
  if (tokenizer == nullptr) fail("the model has no tokenizer files; give some with --tokenizer DIR, or --prompt-ids");
  std::string text =
      line.given("prompt") ? line.text("prompt") : std::string(std::istreambuf_iterator<char>(std::cin), {});
  if (!line.given("prompt") && text.ends_with('\n')) text.pop_back();
  return {tokenizer->encode(text, {.add_bos = !line.get<bool>("no-bos"), .special_tokens = true})};
}

std::function<void(size_t, const std::string&)> text_printer(size_t prompts) {
  if (prompts != 1) return {};
  return [](size_t, const std::string& piece) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
}

void print_texts(const std::vector<Generated>& results, const Tokenizer* tokenizer) {
  if (tokenizer != nullptr && results.size() == 1) return fmt::print("\n");
  for (const Generated& result : results)
    fmt::print("{}\n", tokenizer != nullptr ? result.text : Json(result.ids).dump());
}

void check_finished(const std::vector<Generated>& results) {
  for (size_t prompt = 0; prompt < results.size(); ++prompt)
    if (results[prompt].finish == "error") fail("prompt {}: {}", prompt + 1, results[prompt].error);
}

Json generation_json(const std::vector<Generated>& results) {
  Json json = {{"ids", Json::array()}, {"text", Json::array()}, {"finish", Json::array()}};
  for (const Generated& result : results) {
    json["ids"].push_back(result.ids);
    json["text"].push_back(result.text);
    json["finish"].push_back(result.finish);
    if (!result.weights.empty()) json["expert_weights"].push_back(result.weights);
  }
  return json;
}

}  // namespace cbtm
