#include "pipeline/model_output.h"

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/file_lock.h"
#include "cbtm/base/progress.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/run/router_files.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {
namespace {

void copy_one_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code error;
  std::filesystem::copy_file(from, to, std::filesystem::copy_options::overwrite_existing, error);
  if (error) fail("{}: cannot be copied to {}: {}", from.string(), to.string(), error.message());
}

}  // namespace

void write_model(const std::filesystem::path& directory, const ModelSpec& spec, std::span<const float> parameters,
                 const RunDirectory& run, const TrainingJob& job, ExpertCard& card) {
  AtomicDirectory output(directory);
  write_model_checkpoint(output.path(), spec, parameters);
  Tokenizer::load(run.tokenizer()).save(output.path());
  card.weights_hash = weights_hash(spec, parameters);
  write_expert_card(output.path(), card);
  if (std::filesystem::exists(job.work_directory / "metrics.jsonl"))
    copy_one_file(job.work_directory / "metrics.jsonl", output.path() / "metrics.jsonl");
  output.commit();
}

void put_router(const RunDirectory& run) {
  const FileLock lock(run.experts() / ".router.lock");
  recover_directory(run.experts_router());
  if (std::filesystem::exists(run.experts_router() / "router.json")) {
    try {
      read_json_file(run.experts_router() / "router.json");
      if (same_router(run.experts_router(), run.router())) return;
    } catch (const Error& error) {
      warn(fmt::format("{}; it is put there again from {}", error.what(), run.router().string()));
    }
  }
  copy_router(run.router(), run.experts_router());
}

}  // namespace cbtm
