#include "train/metrics_log.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/mapped_file.h"
#include "cbtm/base/progress.h"

namespace cbtm {
namespace {

/// Calls visit(line, its text) for every whole line that tells of a step; a killed run may leave half a line.
template <typename Visit>
void for_each_metric(const std::filesystem::path& path, const Visit& visit) {
  std::error_code unknown;
  if (!std::filesystem::exists(path, unknown) && !unknown) return;
  const MappedFile file(path);
  for (std::string_view rest = file.text(); !rest.empty();) {
    const std::string_view text = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), text.size() + 1));
    Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (line.is_object() && line.contains("step") && line["step"].is_number_unsigned() &&
        line["step"].get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()})
      visit(std::move(line), text);
  }
}

}  // namespace

std::vector<Json> read_metrics(const std::filesystem::path& path) {
  std::vector<Json> lines;
  for_each_metric(path, [&](Json line, std::string_view) { lines.push_back(std::move(line)); });
  return lines;
}

MetricsLog::MetricsLog(const std::filesystem::path& path, int64_t last_step) : path_(path) {
  std::string kept;
  int64_t kept_step = 0;
  if (last_step > 0)
    for_each_metric(path, [&](Json line, std::string_view text) {
      const auto step = line["step"].get<int64_t>();
      if (step > last_step) return;
      kept_step = std::max(kept_step, step);
      kept.append(text).append("\n");
      earlier_.push_back(std::move(line));
    });
  if (kept_step < last_step)
    warn(fmt::format("{}: holds nothing of the steps {} to {}; losses that are reported lack them", path.string(),
                     kept_step + 1, last_step));
  write_file_atomically(path, kept);
  file_.open(path, std::ios::app);
  if (!file_) fail("{}: cannot be written: {}", path.string(), errno_text());
}

void MetricsLog::add(const Json& line) {
  file_ << line.dump() << '\n';
  file_.flush();
  if (!file_) fail("{}: cannot be written: {}", path_.string(), errno_text());
}

}  // namespace cbtm
