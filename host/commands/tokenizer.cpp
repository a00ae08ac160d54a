#include "cbtm/tokenizer/tokenizer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <fstream>
#include <iostream>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/base/signals.h"
#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/model/families.h"
#include "commands/commands.h"
#include "commands/corpus_flags.h"
#include "corpus/json_line.h"

namespace cbtm {
namespace {

/// A line above this is no text of a person; it would take many times its size in memory.
constexpr size_t kLineBytesMax = size_t{64} << 20;

/// Reads the next line without its line end; false at the end. A longer line than kLineBytesMax is cut behind it.
bool read_line(std::streambuf& input, std::string& line) {
  line.clear();
  constexpr int kEnd = std::char_traits<char>::eof();
  int next = input.sbumpc();
  if (next == kEnd) return false;
  for (; next != kEnd && next != '\n'; next = input.sbumpc()) {
    line += static_cast<char>(next);
    if (line.size() > kLineBytesMax) break;
  }
  return true;
}

/// Calls body(line, place) for every line that is not blank; "-" is standard input. `place` is "FILE:LINE".
template <typename Body>
void for_lines(const std::string& path, const Body& body) {
  std::ifstream file;
  if (path != "-") {
    if (std::filesystem::is_directory(path))
      fail("{}: cannot be read: it is a directory; give a file of JSON lines", path);
    file.open(path, std::ios::binary);
    if (!file) fail("{}: cannot be opened: {}", path, errno_text());
  }
  std::istream& input = path == "-" ? std::cin : file;
  const std::string name = path == "-" ? "standard input" : path;
  int64_t number = 0;
  for (std::string line; read_line(*input.rdbuf(), line);) {
    ++number;
    std::string_view text = line;
    if (number == 1 && text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string place = fmt::format("{}:{}", name, number);
    if (text.size() > kLineBytesMax) fail("{}: the line is longer than {} MiB; cut it", place, kLineBytesMax >> 20);
    if (number % 1024 == 0) stop_if_requested("the tokenizer");
    body(text, place);
  }
}

/// The file that encode and decode write.
std::filesystem::path output_file(const CommandLine& line, OutputKind kind) {
  const std::filesystem::path output = line.path("output");
  check_writable(output, kind);
  line.check_no_input(output, "output");
  return output;
}

int encode(const CommandLine& line) {
  const Tokenizer tokenizer = Tokenizer::load(line.path("tokenizer"));
  const EncodeOptions options{.add_bos = !line.get<bool>("no-bos"), .special_tokens = !line.get<bool>("no-special")};
  const std::string field = line.text("text-field");
  Encoder encoder(tokenizer);
  AtomicFile output(output_file(line, OutputKind::id_lists));
  std::vector<int32_t> ids;
  JsonLineFields fields;
  for_lines(line.text("input"), [&](std::string_view text, const std::string& place) {
    if (const std::string problem = parse_json_line(text, field, fields); !problem.empty())
      fail("{}: {}; an object with its text in '{}' (--text-field) is wanted", place, problem, field);
    ids.clear();
    encoder.encode(fields.text, options, ids);
    output.write(fmt::format("[{}]\n", fmt::join(ids, ",")));
  });
  output.commit();
  return kExitSuccess;
}

int decode(const CommandLine& line) {
  const Tokenizer tokenizer = Tokenizer::load(line.path("tokenizer"));
  const bool skip_special = line.get<bool>("skip-special");
  AtomicFile output(output_file(line, OutputKind::decoded_lines));
  std::vector<int32_t> ids;
  for_lines(line.text("input"), [&](std::string_view text, const std::string& place) {
    const Json json = parse_json(text, place);
    const Json& list = json.is_object() && json.contains("ids") ? json["ids"] : json;
    if (!list.is_array())
      fail("{}: must be a list of token ids, or an object with one as 'ids', but is {}", place, shown_json(list));
    ids.clear();
    for (const Json& id : list) {
      if (!id.is_number_integer() || id < 0 || id >= tokenizer.vocab_size())
        fail("{}: {} is no token id; the tokenizer has 0 to {}", place, shown_json(id), tokenizer.vocab_size() - 1);
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
  if (!line.parse(argc, argv)) return kExitSuccess;
  const std::string what = line.action();
  if (what == "encode") return encode(line);
  if (what == "decode") return decode(line);
  if (what != "train") fail_usage("tokenizer: '{}' is unknown; use train, encode or decode", what);
  const std::filesystem::path directory = line.path("out");
  check_replaceable(directory);
  std::error_code error;
  if (std::filesystem::exists(directory, error) && !std::filesystem::is_empty(directory, error) &&
      (!Tokenizer::is_in(directory) || holds_model(directory)))
    fail("{}: holds another result of cbtm, not a tokenizer; name another directory", directory.string());
  install_stop_signals();
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
