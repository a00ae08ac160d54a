#include "cbtm/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <fstream>
#include <iostream>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/cluster/cluster_corpus.h"
#include "commands/commands.h"
#include "commands/corpus_flags.h"

namespace cbtm {
namespace {

/// Calls body(json, place) for every line of a JSON lines file; "-" is standard input.
template <typename Body>
void for_json_lines(const std::string& path, const Body& body) {
  std::ifstream file;
  if (path != "-") {
    file.open(path);
    if (!file) fail("{}: cannot be opened", path);
  }
  std::istream& input = path == "-" ? std::cin : file;
  int64_t number = 0;
  for (std::string text; std::getline(input, text);) {
    ++number;
    if (text.empty()) continue;
    const std::string place = fmt::format("{}:{}", path, number);
    Json json;
    try {
      json = Json::parse(text);
    } catch (const Json::exception& error) {
      fail("{}: not JSON: {}", place, error.what());
    }
    body(json, place);
  }
  if (!input.eof()) fail("{}: cannot be read", path);  // a directory, for example
}

int encode(const CommandLine& line) {
  const Tokenizer tokenizer = Tokenizer::load(line.path("tokenizer"));
  const EncodeOptions options{.add_bos = !line.get<bool>("no-bos"), .special_tokens = !line.get<bool>("no-special")};
  Encoder encoder(tokenizer);
  AtomicFile output(line.path("output"));
  std::vector<int32_t> ids;
  for_json_lines(line.text("input"), [&](const Json& json, const std::string& place) {
    const std::string field = line.text("text-field");
    if (!json.is_object() || !json.contains(field) || !json[field].is_string())
      fail("{}: must be an object with a text field '{}'", place, field);
    ids.clear();
    encoder.encode(json[field].get_ref<const std::string&>(), options, ids);
    output.write(Json(ids).dump() + "\n");
  });
  output.commit();
  return kExitSuccess;
}

int decode(const CommandLine& line) {
  const Tokenizer tokenizer = Tokenizer::load(line.path("tokenizer"));
  const bool skip_special = line.get<bool>("skip-special");
  AtomicFile output(line.path("output"));
  for_json_lines(line.text("input"), [&](const Json& json, const std::string& place) {
    const Json& list = json.is_object() && json.contains("ids") ? json["ids"] : json;
    if (!list.is_array()) fail("{}: must be a list of token ids", place);
    std::vector<int32_t> ids;
    for (const Json& id : list) {
      if (!id.is_number_integer() || id < 0 || id >= tokenizer.vocab_size())
        fail("{}: {} is no token id; the tokenizer has 0 to {}", place, id.dump(), tokenizer.vocab_size() - 1);
      ids.push_back(id.get<int32_t>());
    }
    output.write(Json{{"text", tokenizer.decode(ids, skip_special)}}.dump() + "\n");
  });
  output.commit();
  return kExitSuccess;
}

}  // namespace

int run_tokenizer(int argc, char** argv) {
  CommandLine line("tokenizer", "train a byte-level BPE tokenizer, encode or decode with one",
                   {"cbtm tokenizer train --corpus data/ --vocab-size 32768 --out tokenizer/",
                    "cbtm tokenizer encode --tokenizer tokenizer/ --input texts.jsonl --output ids.jsonl",
                    "cbtm tokenizer decode --tokenizer tokenizer/ --input ids.jsonl --output texts.jsonl"});
  line.group("What")("what", "train, encode or decode", text_flag(), "train|encode|decode");
  add_corpus_flags(line);
  line.group("Train")("vocab-size", "tokens to learn: special ones, 256 bytes, joined pairs", integer_flag(32'768),
                      "N")("min-frequency", "do not join pairs seen less often", integer_flag(2), "N")(
      "out", "directory to write vocab.json and merges.txt to", text_flag(), "DIR");
  line.group("Encode and decode")("tokenizer", "directory with vocab.json and merges.txt", text_flag(), "DIR")(
      "input", "encode: JSON lines with a text field; decode: lists of ids, one a line; - is stdin", text_flag(),
      "FILE")("output", "where the result goes", text_flag(), "FILE")("no-bos", "encode: do not put </s> in front",
                                                                      switch_flag())(
      "no-special", "encode: special strings in the text are ordinary text", switch_flag())(
      "skip-special", "decode: leave special tokens out", switch_flag());
  line.positional({"what"}, "train|encode|decode");
  if (!line.parse(argc, argv)) return kExitSuccess;
  const std::string what = line.text("what");
  if (what == "encode") return encode(line);
  if (what == "decode") return decode(line);
  if (what != "train") fail_usage("tokenizer: '{}' is unknown; use train, encode or decode", what);
  const std::filesystem::path directory = line.path("out");
  CorpusStatistics statistics;
  Json summary = train_corpus_tokenizer(corpus_options(line), line.integer("vocab-size", 260, 1 << 24),
                                        line.integer("min-frequency", 0), INT64_MAX, directory, statistics);
  summary["corpus"] = corpus_statistics_json(statistics);
  warn_of_bad_documents(statistics);
  fmt::print("{}: {} tokens\n", directory.string(), summary["vocab_size"].get<int64_t>());
  warn_of_lost_files(summary["corpus"]);
  line.write_json(summary);
  return kExitSuccess;
}

}  // namespace cbtm
