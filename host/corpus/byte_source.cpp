#include "corpus/byte_source.h"

#include <zlib.h>
#include <zstd.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

constexpr size_t kInputBytes = size_t{1} << 16;

struct FileCloser {
  void operator()(std::FILE* file) const {
    if (file != stdin) std::fclose(file);
  }
};

/// The file itself, read in pieces.
class RawFile {
 public:
  explicit RawFile(const std::filesystem::path& path) : name_(path.string()) {
    file_.reset(path == "-" ? stdin : std::fopen(path.c_str(), "rb"));
    if (file_ == nullptr) fail("{}", errno_text().insert(0, name_ + ": "));
    refill();
  }
  std::span<const char> available() const { return {buffer_.data() + begin_, end_ - begin_}; }
  void consume(size_t count) { begin_ += count; }
  /// Reads the next piece once the last one is used up; false at the end of the file.
  bool refill() {
    if (begin_ < end_) return true;
    begin_ = 0;
    end_ = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
    if (end_ == 0 && std::ferror(file_.get()) != 0) fail("{}: cannot be read", name_);
    taken_ += static_cast<int64_t>(end_);
    return end_ > 0;
  }
  int64_t taken() const { return taken_; }

 private:
  std::string name_;
  std::unique_ptr<std::FILE, FileCloser> file_;
  std::vector<char> buffer_ = std::vector<char>(kInputBytes);
  size_t begin_ = 0;
  size_t end_ = 0;
  int64_t taken_ = 0;
};

class PlainSource : public ByteSource {
 public:
  explicit PlainSource(RawFile file) : file_(std::move(file)) {}
  size_t read(std::span<char> out) override {
    if (!file_.refill()) return 0;
    const std::span<const char> available = file_.available();
    const size_t count = std::min(out.size(), available.size());
    std::memcpy(out.data(), available.data(), count);
    file_.consume(count);
    return count;
  }
  std::string damage() const override { return ""; }
  int64_t bytes_taken() const override { return file_.taken(); }

 private:
  RawFile file_;
};

class GzipSource : public ByteSource {
 public:
  explicit GzipSource(RawFile file) : file_(std::move(file)) {
    constexpr int kGzipWindow = 15 + 16;
    if (inflateInit2(&stream_, kGzipWindow) != Z_OK) fail("gzip cannot be started");
  }
  ~GzipSource() override { inflateEnd(&stream_); }
  GzipSource(const GzipSource&) = delete;

  size_t read(std::span<char> out) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(out.size());
    while (stream_.avail_out == out.size() && damage_.empty()) {
      if (!file_.refill()) {
        if (within_member_) damage_ = "truncated gzip";
        break;
      }
      const std::span<const char> input = file_.available();
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));
      stream_.avail_in = static_cast<uInt>(input.size());
      within_member_ = true;
      const int status = inflate(&stream_, Z_NO_FLUSH);
      file_.consume(input.size() - stream_.avail_in);
      if (status == Z_STREAM_END) {
        within_member_ = false;
        inflateReset(&stream_);
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        damage_ = "damaged gzip";
      }
    }
    return out.size() - stream_.avail_out;
  }
  std::string damage() const override { return damage_; }
  int64_t bytes_taken() const override { return file_.taken(); }

 private:
  RawFile file_;
  z_stream stream_{};
  bool within_member_ = false;
  std::string damage_;
};

class ZstdSource : public ByteSource {
 public:
  explicit ZstdSource(RawFile file) : file_(std::move(file)), stream_(ZSTD_createDStream()) {
    ZSTD_initDStream(stream_);
  }
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }
  ZstdSource(const ZstdSource&) = delete;

  size_t read(std::span<char> out) override {
    ZSTD_outBuffer output{out.data(), out.size(), 0};
    while (output.pos == 0 && damage_.empty()) {
      if (!file_.refill()) {
        if (within_frame_) damage_ = "truncated zstd";
        break;
      }
      const std::span<const char> available = file_.available();
      ZSTD_inBuffer input{available.data(), available.size(), 0};
      const size_t status = ZSTD_decompressStream(stream_, &output, &input);
      file_.consume(input.pos);
      if (ZSTD_isError(status) != 0) damage_ = "damaged zstd";
      within_frame_ = status != 0;
    }
    return output.pos;
  }
  std::string damage() const override { return damage_; }
  int64_t bytes_taken() const override { return file_.taken(); }

 private:
  RawFile file_;
  ZSTD_DStream* stream_;
  bool within_frame_ = false;
  std::string damage_;
};

}  // namespace

std::unique_ptr<ByteSource> ByteSource::open(const std::filesystem::path& path) {
  RawFile file(path);
  const std::span<const char> first = file.available();
  const std::string_view magic(first.data(), std::min<size_t>(first.size(), 4));
  if (magic.starts_with("\x1f\x8b")) return std::make_unique<GzipSource>(std::move(file));
  if (magic == "\x28\xb5\x2f\xfd") return std::make_unique<ZstdSource>(std::move(file));
  return std::make_unique<PlainSource>(std::move(file));
}

}  // namespace cbtm
