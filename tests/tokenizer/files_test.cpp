// What a directory's files make of a tokenizer: as transformers 5.24 with tokenizers 0.23 does, or refused in one line.
// The expected ids were measured with them.

#include <doctest/doctest.h>

#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

using Ids = std::vector<int32_t>;
namespace fs = std::filesystem;

const fs::path kTiny = fs::path(CBTM_TEST_DATA) / "tokenizer" / "opt-tiny";
constexpr EncodeOptions kLikeTransformers{.add_bos = true, .special_tokens = true};

/// A copy of the tiny tokenizer to change: its old files, or its tokenizer.json alone.
class Directory {
 public:
  enum class Files { old, pipeline };
  explicit Directory(Files files) {
    if (files == Files::pipeline) {
      fs::copy(kTiny / "tokenizer.json", path());
    } else {
      for (const char* name : {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"})
        fs::copy(kTiny / name, path());
    }
  }
  const fs::path& path() const { return directory_.path(); }
  void write(const char* name, const std::string& text) const {
    fs::remove(path() / name);
    std::ofstream(path() / name, std::ios::binary) << text;
  }
  /// Lets change(json) change a file.
  template <typename Change>
  void change(const char* name, const Change& change) const {
    Json json = read_json_file(path() / name);
    change(json);
    write(name, json.dump());
  }
  void append_merge(const std::string& line) const {
    std::ofstream(path() / "merges.txt", std::ios::app | std::ios::binary) << line << "\n";
  }
  void remove(const char* name) const { fs::remove(path() / name); }
  Tokenizer load() const { return Tokenizer::load(path()); }
  void check_refused(const char* message) const { CHECK_THROWS_WITH_AS(load(), doctest::Contains(message), Error); }

 private:
  TemporaryDirectory directory_;
};

Json added(const char* content, int id, bool special = true) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// Saved and loaded again, a tokenizer is the same.
void check_saved(const Tokenizer& tokenizer, const std::string& text) {
  const TemporaryDirectory directory;
  tokenizer.save(directory.path());
  const Tokenizer back = Tokenizer::load(directory.path());
  CHECK(back.content_hash() == tokenizer.content_hash());
  CHECK(back.bos_id() == tokenizer.bos_id());
  CHECK(back.eos_id() == tokenizer.eos_id());
  CHECK(back.pad_id() == tokenizer.pad_id());
  CHECK(back.encode(text, kLikeTransformers) == tokenizer.encode(text, kLikeTransformers));
  CHECK(back.encode(text) == tokenizer.encode(text));
}

TEST_CASE("the hash of plain tokenizers, which shards record, stays what it was") {
  for (const auto files : {Directory::Files::old, Directory::Files::pipeline})
    CHECK(Directory(files).load().content_hash() == "62c23895d2b8e73f1660b4ec9a22440c");
}

TEST_CASE("tokenizer.json alone is the same tokenizer") {
  const Directory directory(Directory::Files::pipeline);
  const Tokenizer tokenizer = directory.load();
  CHECK(tokenizer.encode("Hello</s>", kLikeTransformers) == Ids{2, 43, 509, 82, 2});
  check_saved(tokenizer, "Hello</s> you");
  directory.change("tokenizer.json", [](Json& json) {
    for (Json& merge : json["model"]["merges"]) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    json["post_processor"] = nullptr;
  });
  CHECK(directory.load().content_hash() == tokenizer.content_hash());
  CHECK(directory.load().encode("Hello", kLikeTransformers) == Ids{43, 509, 82});
  check_saved(directory.load(), "Hello</s> you");
}

TEST_CASE("added_tokens.json and names that no vocabulary has get the next ids") {
  const Directory directory(Directory::Files::old);
  directory.change("special_tokens_map.json", [](Json& json) { json["pad_token"] = "[PAD]"; });
  directory.write("added_tokens.json", R"({"[PAD]": 1260, "<|im_start|>": 1261})");
  const Tokenizer tokenizer = directory.load();
  CHECK(tokenizer.encode("Hello <|im_start|>user", kLikeTransformers) == Ids{2, 43, 509, 82, 224, 1261, 402, 266});
  // An added token that is not special is cut out of corpus text too, and stays in the decoded text.
  CHECK(tokenizer.encode("<|im_start|>[PAD]").front() == 1261);
  CHECK(tokenizer.encode("<|im_start|>[PAD]").size() > 2);
  CHECK(tokenizer.decode(Ids{1261, 1260, 43}, /*skip_special=*/true) == "<|im_start|>H");
  CHECK(tokenizer.pad_id() == 1260);
  CHECK(tokenizer.vocab_size() == 1262);
  CHECK(tokenizer.content_hash() != Tokenizer::load(kTiny).content_hash());
  check_saved(tokenizer, "Hello <|im_start|>user [PAD]");
  directory.remove("added_tokens.json");
  CHECK(directory.load().pad_id() == 1260);
}

TEST_CASE("tokenizer_config.json says what begins a text") {
  const Directory directory(Directory::Files::old);
  directory.remove("special_tokens_map.json");
  directory.write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true,
      "add_prefix_space": true, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"})");
  const Tokenizer tokenizer = directory.load();
  CHECK(tokenizer.encode("Hello <|im_start|>user", kLikeTransformers) ==
        Ids{0, 393, 509, 82, 224, 31, 95, 330, 66, 335, 549, 95, 33, 402, 266});
  CHECK(tokenizer.encode("").empty());
  check_saved(tokenizer, "Hello</s>you");
  directory.change("tokenizer_config.json", [](Json& json) { json.erase("add_bos_token"); });
  CHECK(directory.load().encode("Hello", kLikeTransformers) == Ids{393, 509, 82});
  directory.change("tokenizer_config.json", [](Json& json) { json["tokenizer_class"] = "Qwen2Tokenizer"; });
  directory.check_refused("Qwen2Tokenizer");
}

TEST_CASE("flags of added tokens") {
  const Directory directory(Directory::Files::pipeline);
  directory.change("tokenizer.json", [](Json& json) {
    Json mask = added("<mask>", 1260);
    mask["lstrip"] = true;
    Json word = added("<w>", 1261, false);
    word["single_word"] = true;
    Json right = added("<r>", 1262, false);
    right["rstrip"] = true;
    for (const Json& token : {mask, word, right, added("<m", 1263, false)}) json["added_tokens"].push_back(token);
    json["post_processor"] = nullptr;
  });
  const Tokenizer tokenizer = directory.load();
  const EncodeOptions options{.special_tokens = true};
  CHECK(tokenizer.encode("  <mask>", options) == Ids{1260});
  CHECK(tokenizer.encode("<r> \t\n", options) == Ids{1262});
  CHECK(tokenizer.encode("<w> <w>", options) == Ids{1261, 224, 1261});
  CHECK(tokenizer.encode("\u00e9<w>", options).size() > 2);
  CHECK(tokenizer.encode("<m<mask>", options) == Ids{1263, 1260});
  // Off, special tokens are text, but hide what they cover.
  const Ids plain = tokenizer.encode("<mask>");
  CHECK(std::find(plain.begin(), plain.end(), 1263) == plain.end());
  check_saved(tokenizer, "a <mask> b<w> <r>  c<m");
}

TEST_CASE("of a token that is named with flags and as text the last counts, the same text once only") {
  const Directory directory(Directory::Files::old);
  const Json with_flags = {{"content", "</s>"}, {"lstrip", true}, {"rstrip", false}};
  directory.write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  const auto ids = [&](const Json& bos, const Json& eos) {
    directory.write("special_tokens_map.json",
                    Json{{"bos_token", bos}, {"eos_token", eos}, {"unk_token", "</s>"}}.dump());
    return directory.load().encode("Hello </s>", kLikeTransformers);
  };
  CHECK(ids("</s>", with_flags) == Ids{43, 509, 82, 2});
  CHECK(ids("<s>", with_flags) == Ids{43, 509, 82, 224, 2});
  CHECK(ids("<s>", "</s>") == Ids{43, 509, 82, 224, 2});
}

TEST_CASE("merges that touch special tokens, or tokens that are not of bytes, are refused") {
  for (const char* line : {"< /s>", "</ s>", "</s> h", "h </s>", "h \u65e5", "\u65e5 h"}) {
    CAPTURE(line);
    const Directory directory(Directory::Files::old);
    directory.change("vocab.json", [](Json& json) {
      int32_t id = 1260;
      for (const char* token : {"/s>", "s>", "</", "</s>h", "h</s>", "\u65e5", "h\u65e5", "\u65e5h"})
        json[token] = id++;
    });
    for (const char* before : {"s >", "/ s>", "< /"}) directory.append_merge(before);
    directory.append_merge(line);
    directory.check_refused("merges.txt: merge 1004");
  }
  const Directory ordinary(Directory::Files::old);
  ordinary.change("special_tokens_map.json", [](Json& json) { json["bos_token"] = "he"; });
  ordinary.check_refused("which is a special token");
}

TEST_CASE("a pair that is there twice has the rank of its last line") {
  const Directory twice(Directory::Files::old);
  twice.append_merge("h e");
  CHECK(twice.load().encode("the hen he") != Tokenizer::load(kTiny).encode("the hen he"));
}

TEST_CASE("a special token may be a byte or white space") {
  const Directory directory(Directory::Files::old);
  directory.change("special_tokens_map.json", [](Json& json) {
    json["pad_token"] = "!";
    json["additional_special_tokens"] = {" ", "\n\n"};
  });
  const Tokenizer tokenizer = directory.load();
  CHECK(tokenizer.encode("a!", kLikeTransformers) == Ids{2, 68, tokenizer.pad_id()});
  CHECK(tokenizer.encode("a \n\n", kLikeTransformers) == Ids{2, 68, 1260, 1261});
  CHECK(tokenizer.decode(Ids{68, 1260, 1261}) == "a \n\n");
  CHECK(tokenizer.decode(tokenizer.encode("a b\n\n!")) == "a b\n\n!");
  check_saved(tokenizer, "a b!\n\n");
}

TEST_CASE("damaged and odd files are refused in one line") {
  const auto old_files = [](const auto& change, const char* message) {
    const Directory directory(Directory::Files::old);
    change(directory);
    directory.check_refused(message);
  };
  const auto names = [&](const char* role, const Json& value, const char* message) {
    old_files([&](const Directory& d) { d.change("special_tokens_map.json", [&](Json& j) { j[role] = value; }); },
              message);
  };
  for (const char* role : {"bos_token", "eos_token", "pad_token", "unk_token", "mask_token"})
    names(role, "", "is empty");
  names("eos_token", Json{{"content", ""}}, "is empty");
  names("eos_token", 7, "must be text");
  names("eos_token", nullptr, "no token ends a text");
  names("additional_special_tokens", Json::array({""}), "is empty");
  const auto vocabulary = [&](const char* token, const Json& id, const char* message) {
    old_files([&](const Directory& d) { d.change("vocab.json", [&](Json& j) { j[token] = id; }); }, message);
  };
  vocabulary("zzz", 9'999'999, "only 1261 tokens");
  vocabulary("zzz", -1, "zzz");
  vocabulary("zzz", 18446744073709551615u, "zzz");
  vocabulary("zzz", 4.5, "zzz");
  vocabulary("zzz", 5, "given twice");
  vocabulary("!", nullptr, "'!'");
  const auto file = [&](const char* name, const std::string& text, const char* message) {
    old_files([&](const Directory& d) { d.write(name, text); }, message);
  };
  file("vocab.json", std::string(1 << 20, '['), "nested more than");
  file("vocab.json", R"({"a": 1, "a": 2})", "twice");
  file("vocab.json", "", "vocab.json");
  file("merges.txt", "#version: 0.2\nh e\n\xff\xfe x\n", "merges.txt:3: '\\xff\\xfe'");
  file("merges.txt", "a b c\n", "merges.txt:1");
  file("merges.txt", std::string(1 << 20, 'a') + " b\n", "merges.txt:1");
  file("added_tokens.json", R"({"<x>": 1260, "<y>": 1260})", "given twice");
  file("added_tokens.json", R"({"": 1260})", "empty");
  file("added_tokens.json", R"({"<x>": 99999999999})", "<x>");
  file("added_tokens.json", R"(["<x>"])", "added_tokens.json");
  file("tokenizer_config.json", R"({"add_bos_token": "yes"})", "add_bos_token");
  file("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "a"}}})", "no token id");
  old_files(
      [](const Directory& d) {
        d.change("vocab.json", [](Json& j) { j["zzz"] = 3000; });
        d.write("added_tokens.json", R"({"<x>": 3001})");
        d.change("vocab.json", [](Json& j) { j["yyy"] = 1262; });
      },
      "another token has");
}

TEST_CASE("components of tokenizer.json that are not understood are named") {
  const auto refused = [](const char* key, const Json& value, const char* message) {
    const Directory directory(Directory::Files::pipeline);
    directory.change("tokenizer.json", [&](Json& json) { json[Json::json_pointer(key)] = value; });
    directory.check_refused(message);
  };
  refused("/normalizer", {{"type", "Lowercase"}}, "Lowercase");
  refused("/pre_tokenizer", {{"type", "Whitespace"}}, "Whitespace");
  refused("/pre_tokenizer", nullptr, "pre_tokenizer");
  refused("/pre_tokenizer",
          {{"type", "Sequence"},
           {"pretokenizers",
            {{{"type", "Split"}, {"pattern", {{"Regex", "x+"}}}, {"behavior", "Isolated"}, {"invert", false}},
             {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}},
          "x+");
  refused("/decoder", {{"type", "WordPiece"}}, "WordPiece");
  refused("/decoder", nullptr, "decoder");
  refused("/post_processor", {{"type", "Strange"}}, "Strange");
  refused("/post_processor", {{"type", "RobertaProcessing"}, {"sep", {"</s>", 99999}}, {"cls", {"<s>", 0}}}, "99999");
  refused("/model/type", "Unigram", "Unigram");
  refused("/model/dropout", 0.1, "dropout");
  refused("/model/continuing_subword_prefix", "##", "continuing_subword_prefix");
  refused("/model/merges/0", Json::array({"a"}), "merge 1");
  refused("/model/merges/0", Json::array({"a", "q\u00e9"}), "merge 1");
  refused("/model/vocab", Json::object(), "no token");
  refused("/model", 3, "model");
  refused("/added_tokens/0/content", "", "is empty");
}

TEST_CASE("vocab.json and merges.txt beside tokenizer.json must be of the same tokenizer") {
  const Directory directory(Directory::Files::old);
  fs::copy(kTiny / "tokenizer.json", directory.path());
  CHECK(directory.load().content_hash() == Tokenizer::load(kTiny).content_hash());
  directory.append_merge("h e");
  directory.check_refused("merges.txt: its merges are not those of tokenizer.json");
  directory.change("vocab.json", [](Json& json) { json["zzz"] = 1260; });
  directory.check_refused("vocab.json: 'zzz'");
}

}  // namespace
}  // namespace cbtm
