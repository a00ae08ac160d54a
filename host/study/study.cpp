#include "cbtm/study/study.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/made_json.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/device_error.h"
#include "cbtm/pipeline/corpus_stages.h"
#include "cbtm/study/page.h"
#include "cbtm/study/study_json.h"
#include "cbtm/study/workplace.h"
#include "cbtm/train/trainer.h"
#include "study/maker.h"
#include "study/progress.h"
#include "study/recipe.h"

namespace cbtm::study {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCorpusHashes = "corpus-hashes.json";  // as in a run
constexpr const char* kRemedy = "move it away, and the same command makes it again";

/// Everything that a study writes itself may be written.
void check_outputs(const Workplace& place) {
  std::error_code error;
  if (fs::exists(place.root(), error) && !fs::is_directory(place.root(), error))
    fail("{}: is a file, but a study is a directory; name another", place.root().string());
  make_directories(place.root());
  // Each with a key that no configuration of a user's has: its name may well be study.json.
  const std::pair<fs::path, const char*> files[] = {
      {place.configuration(), "config"}, {place.study_json(), "relations"}, {place.times_json(), "systems"}};
  for (const auto& [file, key] : files) {
    if (!fs::exists(file)) continue;
    check_writable(file, OutputKind::json);
    const Json json = read_made_json(file, kRemedy);
    if (!json.is_object() || !json.contains("format") || !json.contains(key))
      fail("{}: is there, but is not this study's; move it away, or name another --out", file.string());
  }
  if (fs::exists(place.page())) check_writable(place.page(), OutputKind::html);
}

/// Removes the shards of a clustering if no cell of the study needs them any more, and nobody else works with them.
/// `due`: cells that are to be made, whatever lies there.
void remove_unused_shards(const Workplace& place, const Config& config, std::span<const Cell> due, const Cell& done) {
  if (done.system.kind != SystemKind::ensemble) return;
  const auto clustering_of = [&](const Cell& cell) {
    return place.clustering(cell.system.clustering, cell.system.k, cell.seed).root();
  };
  for (const Cell& cell : cells_of(config))
    if (cell.system.kind == SystemKind::ensemble && clustering_of(cell) == clustering_of(done) &&
        (!fs::exists(Workplace::result_json(place.cell(cell.name()))) ||
         std::any_of(due.begin(), due.end(), [&](const Cell& other) { return other.name() == cell.name(); })))
      return;
  const RunDirectory run(clustering_of(done));
  const FileLock turn(run.root() / ".study.lock", FileLock::Wait::no);
  const FileLock lock(run.clusters_lock(), FileLock::Wait::no);
  if (!turn.held() || !lock.held()) return;
  remove_output_directory(run.shards());
  remove_abandoned_outputs(run.root());
}

/// The configuration with the type that the devices train in: parts on other machines must take the same.
Config with_precision(Config config, std::span<Device* const> devices) {
  const DType dtype = resolve_precision(config.precision, devices);
  config.precision = dtype == DType::bf16 ? "bf16" : dtype == DType::f16 ? "fp16" : "float32";
  return config;
}

/// One call of make_cells.
class Work {
 public:
  Work(std::span<Device* const> devices, const StudyOptions& options)
      : options_(options), place_(options.out), config_(with_precision(options.config, devices)) {
    check_outputs(place_);
    means_ = {.devices = devices,
              .corpus = corpus_of_run(options.corpus, RunDirectory(place_.root()), options.redo),
              .memory_bytes = options.memory_bytes,
              .redo = options.redo,
              .command = options.command};
    means_.corpus_hash = corpus_fingerprint(means_.corpus, place_.root() / kCorpusHashes);
    const std::vector<Cell> all = cells_of(config_);
    own_ = cells_of_part(all, cell_costs(config_, all), options.part, options.parts);
    std::set<std::string> done;
    for (const Cell& cell : all)  // those of other parts too: they are joined with these
      if (find_result(place_, cell, recipe_of(config_, cell, means_.corpus_hash), options.redo))
        done.insert(cell.name());
    for (const Cell& cell : own_)
      if (!done.contains(cell.name())) due_.push_back(cell);
    for (const Cell& cell : own_)
      if (done.contains(cell.name())) tidy(cell);
    write_configuration();  // last: a command that is refused changes nothing
  }

  void run() {
    if (due_.empty()) return;
    Maker maker(place_, config_, means_);
    maker.make_corpus();
    make_domains(maker);
    while (!due_.empty()) {
      const Cell cell = due_.front();
      say(fmt::format("study: {}", cell.name()));
      const bool made = attempt(cell.name(), [&] {
        maker.make_cell(cell);
        due_.erase(due_.begin());
        tidy(cell);
      });
      if (!made) {
        failed_.push_back(cell.name());
        std::erase_if(due_, [&](const Cell& other) { return other.name() == cell.name(); });
      }
      say(progress_line(place_, config_, own_, due_));
    }
    if (!failed_.empty())
      fail(
          "{} of {} cells could not be made: {} (the reasons stand above; the same command tries them again, --join "
          "shows the rest)",
          failed_.size(), own_.size(), fmt::join(failed_, ", "));
  }

 private:
  /// What the study is of, for those who join it. Other axes than before are fine: cells stay as they are.
  void write_configuration() const {
    write_json_file(place_.configuration(),
                    {{"format", 1}, {"config", config_json(config_)}, {"corpus", means_.corpus_hash}});
  }

  /// Whether the corpus has as many domains as are asked for is known only when it is read: at once, not after hours.
  /// Cells for which it has not are left out.
  void make_domains(Maker& maker) {
    std::map<int64_t, bool> made;  // by k
    const auto by_domains = [](const Cell& cell) {
      return cell.system.kind == SystemKind::ensemble && cell.system.clustering == Clustering::domains;
    };
    for (const Cell& cell : due_) {
      if (!by_domains(cell) || made.contains(cell.system.k)) continue;
      made[cell.system.k] = attempt(
          fmt::format("domains, k {}", cell.system.k), [&] { maker.make_clustering(cell.system, cell.seed); },
          " (in the configuration: a 'k' of this clustering's own)");
    }
    std::erase_if(due_, [&](const Cell& cell) {
      const bool impossible = by_domains(cell) && !made.at(cell.system.k);
      if (impossible) failed_.push_back(cell.name());
      return impossible;
    });
  }

  /// Whether `make` succeeded; the reason why it did not is a warning, with `advice` at its end. What concerns all
  /// cells, such as the device or a signal, is thrown on.
  template <typename Make>
  static bool attempt(const std::string& what, const Make& make, const char* advice = "") {
    try {
      make();
      return true;
    } catch (const DeviceError&) {
      throw;
    } catch (const Error& error) {
      if (error.exit_code() == kExitInterrupted || stop_requested() != 0) throw;
      warn(fmt::format("{}: {}{}", what, error.what(), advice));
      return false;
    }
  }

  void tidy(const Cell& cell) const {
    if (options_.keep_models) return;
    const RunDirectory run = place_.cell(cell.name());
    const FileLock turn(run.root() / ".study.lock", FileLock::Wait::no);
    if (!turn.held()) return;
    remove_models(run);
    remove_unused_shards(place_, config_, due_, cell);
  }

  const StudyOptions& options_;
  Workplace place_;
  const Config config_;
  Means means_;
  std::vector<Cell> own_, due_;
  std::vector<std::string> failed_;
};

}  // namespace

void make_cells(std::span<Device* const> devices, const StudyOptions& options) { Work(devices, options).run(); }

std::vector<std::string> join_study(const fs::path& out) {
  const Workplace place(out);
  if (!fs::exists(place.configuration()))
    fail("{}: holds no study; make one with cbtm study --corpus ... --out {}", out.string(), out.string());
  const std::string remedy = "move it away, and make some cells again with cbtm study";
  const Json json = read_made_json(place.configuration(), remedy);
  const JsonReader read(json, place.configuration().string(), remedy);
  Config config;
  read_config(read.object("config").json(), place.configuration().string(), config);
  check_config(config);
  check_outputs(place);
  std::vector<CellResult> cells;
  std::vector<std::string> missing;
  const std::vector<Cell> all = cells_of(config);
  for (const Cell& cell : all) {
    const Json recipe = recipe_of(config, cell, read.text("corpus"));
    if (std::optional<CellResult> result = find_result(place, cell, recipe, /*redo=*/false))
      cells.push_back(std::move(*result));
    else
      missing.push_back(cell.name());
  }
  const Results results(config, std::move(cells));
  const Json study = study_json(results, missing);
  const Json times = study_times_json(config, times_of(place, all));
  write_json_file(place.study_json(), study);
  write_json_file(place.times_json(), times);
  write_file_atomically(place.page(), study_page(study, times));
  return missing;
}

}  // namespace cbtm::study
