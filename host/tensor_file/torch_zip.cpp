// Zip as PyTorch writes it (docs/opt-format.md, 'PyTorch zip'; PKWARE's APPNOTE.TXT 4.3): sizes and offsets come from
// the central directory alone.

#include "tensor_file/torch_zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/signals.h"

namespace cbtm {
namespace {

constexpr size_t kEndRecordBytes = 22;
constexpr size_t kLocatorBytes = 20;
constexpr size_t kEntryBytes = 46;
constexpr size_t kLocalHeaderBytes = 30;
constexpr size_t kCommentBytesMax = 65535;

class Archive {
 public:
  Archive(std::string_view file, const std::string& where) : file_(file), where_(where) {}

  std::map<std::string, std::string_view> members() {
    find_directory();
    std::map<std::string, std::string_view> members;
    uint64_t place = directory_offset_;
    for (uint64_t entry = 0; entry < entries_; ++entry) {
      if (place > file_.size() || file_.size() - place < kEntryBytes || number<uint32_t>(place) != 0x02014b50)
        fail("{}: damaged zip: directory entry {} of {} is not there", where_, entry, entries_);
      place = add_member(place, members);
    }
    check_contents();
    return members;
  }

 private:
  struct Contents {
    uint64_t begin;
    std::string_view data;
    uint32_t checksum;
    std::string name;
  };

  template <typename Number>
  Number number(uint64_t place) const {
    if (place > file_.size() || file_.size() - place < sizeof(Number))
      fail("{}: damaged zip: a record passes the end of the file", where_);
    Number value;
    std::memcpy(&value, file_.data() + place, sizeof value);
    return value;
  }

  void find_directory() {
    if (file_.size() < kEndRecordBytes) fail("{}: damaged zip: too short", where_);
    const size_t last = file_.size() - kEndRecordBytes;
    const size_t lowest = last > kCommentBytesMax ? last - kCommentBytesMax : 0;
    size_t end = last + 1;
    while (end > lowest && number<uint32_t>(end - 1) != 0x06054b50) --end;
    if (end == lowest) fail("{}: damaged zip: cut off (no end record)", where_);
    --end;
    entries_ = number<uint16_t>(end + 10);
    directory_offset_ = number<uint32_t>(end + 16);
    if (end >= kLocatorBytes && number<uint32_t>(end - kLocatorBytes) == 0x07064b50) {
      const uint64_t end64 = number<uint64_t>(end - kLocatorBytes + 8);
      if (number<uint32_t>(end64) != 0x06064b50)
        fail("{}: damaged zip: no zip64 end record where it should be", where_);
      entries_ = number<uint64_t>(end64 + 32);
      directory_offset_ = number<uint64_t>(end64 + 48);
    }
    if (entries_ > file_.size() / kEntryBytes) fail("{}: damaged zip: {} entries cannot fit in it", where_, entries_);
  }

  uint64_t add_member(uint64_t place, std::map<std::string, std::string_view>& members) {
    const uint16_t flags = number<uint16_t>(place + 8);
    const uint16_t method = number<uint16_t>(place + 10);
    const uint32_t checksum = number<uint32_t>(place + 16);
    uint64_t stored_bytes = number<uint32_t>(place + 20);
    uint64_t bytes = number<uint32_t>(place + 24);
    const uint16_t name_bytes = number<uint16_t>(place + 28);
    const uint16_t extra_bytes = number<uint16_t>(place + 30);
    const uint16_t comment_bytes = number<uint16_t>(place + 32);
    uint64_t offset = number<uint32_t>(place + 42);
    const uint64_t next = place + kEntryBytes + name_bytes + extra_bytes + comment_bytes;
    if (next > file_.size()) fail("{}: damaged zip: a directory entry passes the end of the file", where_);
    const std::string name(file_.substr(place + kEntryBytes, name_bytes));
    if ((flags & 1) != 0) fail("{}: member '{}' is encrypted", where_, shown_text(name));

    for (uint64_t extra = place + kEntryBytes + name_bytes;
         extra + 4 <= place + kEntryBytes + name_bytes + extra_bytes;) {
      const uint16_t id = number<uint16_t>(extra);
      const uint16_t length = number<uint16_t>(extra + 2);
      uint64_t field = extra + 4;
      if (id == 1) {  // zip64: those 64-bit values whose 32-bit ones are all ones, in this order
        if (bytes == 0xffffffff) bytes = number<uint64_t>(std::exchange(field, field + 8));
        if (stored_bytes == 0xffffffff) stored_bytes = number<uint64_t>(std::exchange(field, field + 8));
        if (offset == 0xffffffff) offset = number<uint64_t>(field);
      }
      extra += 4 + length;
    }
    if (method != 0)
      fail("{}: member '{}' is compressed; PyTorch never does that: save it again with torch.save", where_,
           shown_text(name));
    if (stored_bytes != bytes) fail("{}: damaged zip: member '{}' has two sizes", where_, shown_text(name));
    if (number<uint32_t>(offset) != 0x04034b50)
      fail("{}: damaged zip: no member '{}' where the directory says", where_, shown_text(name));
    const uint64_t begin = offset + kLocalHeaderBytes + number<uint16_t>(offset + 26) + number<uint16_t>(offset + 28);
    if (begin > file_.size() || bytes > file_.size() - begin)
      fail("{}: damaged zip: member '{}' passes the end of the file", where_, shown_text(name));
    const std::string_view data = file_.substr(begin, bytes);
    contents_.push_back({begin, data, checksum, name});
    const size_t slash = name.find('/');
    const std::string inner = slash == std::string::npos ? name : name.substr(slash + 1);
    if (!members.emplace(inner, data).second) fail("{}: holds two members named '{}'", where_, shown_text(name));
    return next;
  }

  /// Checks each member's checksum. No byte belongs to two members, so that the work is bounded by the file's size.
  void check_contents() {
    std::sort(contents_.begin(), contents_.end(), [](const Contents& a, const Contents& b) {
      return std::pair(a.begin, a.data.size()) < std::pair(b.begin, b.data.size());
    });
    uint64_t covered = 0;
    for (const Contents& member : contents_) {
      if (member.data.empty()) continue;
      if (member.begin < covered)
        fail("{}: damaged zip: member '{}' overlaps another", where_, shown_text(member.name));
      covered = member.begin + member.data.size();
    }
    for (const Contents& member : contents_) {
      stop_if_requested("reading weights");
      const auto* data = reinterpret_cast<const Bytef*>(member.data.data());
      if (crc32_z(crc32_z(0, nullptr, 0), data, member.data.size()) != member.checksum)
        fail("{}: damaged: the checksum of member '{}' does not match; copy or download it again", where_,
             shown_text(member.name));
    }
  }

  std::string_view file_;
  const std::string& where_;
  std::vector<Contents> contents_;
  uint64_t entries_ = 0;
  uint64_t directory_offset_ = 0;
};

}  // namespace

std::map<std::string, std::string_view> read_zip_members(std::string_view file, const std::string& where) {
  return Archive(file, where).members();
}

}  // namespace cbtm
