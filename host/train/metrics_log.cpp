#include "train/metrics_log.h"

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"

namespace cbtm {

std::vector<Json> read_metrics(const std::filesystem::path& path) {
  std::vector<Json> lines;
  if (!std::filesystem::exists(path)) return lines;
  std::ifstream file(path);
  if (!file)
    fail("{}: cannot be read: {}; it holds the curve of the steps so far: make it readable, or move it away",
         path.string(), errno_text());
  for (std::string text; std::getline(file, text);) {
    Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (line.is_object() && line.contains("step") && line["step"].is_number_integer())
      lines.push_back(std::move(line));  // a killed run may leave half a line
  }
  return lines;
}

MetricsLog::MetricsLog(const std::filesystem::path& path, int64_t last_step) {
  std::string kept;
  for (Json& line : read_metrics(path))
    if (last_step > 0 && line["step"].get<int64_t>() <= last_step) {
      kept += line.dump() + "\n";
      earlier_.push_back(std::move(line));
    }
  write_file_atomically(path, kept);
  file_.open(path, std::ios::app);
  if (!file_) fail("{}: cannot be written", path.string());
}

void MetricsLog::add(const Json& line) {
  file_ << line.dump() << '\n';
  file_.flush();
  if (!file_) fail("metrics.jsonl cannot be written: is the disk full?");
}

}  // namespace cbtm
