#pragma once

#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/corpus/corpus.h"

namespace cbtm {

inline void write(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(text.size() + 200, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

/// JSON lines with the texts "PREFIX 0", "PREFIX 1", ...
inline std::string json_lines(int count, const std::string& prefix = "text") {
  std::string lines;
  for (int i = 0; i < count; ++i) lines += "{\"text\": \"" + prefix + " " + std::to_string(i) + "\"}\n";
  return lines;
}

struct Read {
  std::vector<Document> documents;
  CorpusStatistics statistics;

  std::vector<std::string> texts() const {
    std::vector<std::string> result;
    for (const Document& document : documents) result.push_back(document.text);
    return result;
  }
  std::vector<std::string> ids() const {
    std::vector<std::string> result;
    for (const Document& document : documents) result.push_back(document.id);
    return result;
  }
};

inline Read read(CorpusOptions options) {
  CorpusReader reader(std::move(options));
  Read result;
  for (Document document; reader.next(document);) result.documents.push_back(document);
  result.statistics = reader.statistics();
  return result;
}

inline Read read(const std::filesystem::path& path) { return read(CorpusOptions{.paths = {path.string()}}); }

}  // namespace cbtm
