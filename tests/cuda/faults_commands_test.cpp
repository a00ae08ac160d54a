// The binary itself, with a CUDA runtime that fails (tests/cuda/faults): one clear line, exit code 1, nothing half
// written, nothing lost.

#include <cuda_runtime.h>
#include <doctest/doctest.h>

#include <fstream>

#include "tests/cuda/half_precision.h"
#include "tests/cuda/workplace.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;
Words train_expert(const std::string& shard) {
  return Words{"train_expert", "--run",          "run", "--shard",         shard,  "--steps",      "4", "--sequence",
               "32",           "--batch-tokens", "192", "--learning-rate", "1e-2", "--save-every", "1"} +
         Words{"--precision", half_precision()};
}

/// A run with two of three experts, made on the CPU. Made once.
const fs::path& place() {
  static const TemporaryDirectory directory;
  static const bool made = [] {
    write_workplace(directory.path());
    const Words cpu = {"--device", "cpu", "--threads", "1"};
    const Words seed = {"train_seed", "--run",      "run", "--config",       "model.json", "--steps",
                        "2",          "--sequence", "32",  "--batch-tokens", "192"};
    succeed(run_cbtm(kCluster + Words{"--out", "run"} + cpu, directory.path()));
    succeed(run_cbtm(seed + cpu, directory.path()));
    for (const char* shard : {"0", "1"}) {
      Words command = train_expert(shard) + cpu;
      *std::find(command.begin(), command.end(), half_precision()) = "float32";
      succeed(run_cbtm(command, directory.path()));
    }
    return true;
  }();
  static_cast<void>(made);
  return directory.path();
}

Outcome run(const Words& command, const std::string& faults) {
  return run_program(Words{"env", "LD_PRELOAD=" CBTM_FAULTS_LIBRARY, "CBTM_FAULT=" + faults} +
                         cbtm_command(command + (command.front() == "devices" ? Words{} : Words{"--threads", "1"})),
                     place());
}

std::string fault(const std::string& call, cudaError_t status) {
  return call + ":" + std::to_string(static_cast<int>(status));
}

/// One line that holds `expected`, and exit code 1.
void check_fault(const Words& command, const std::string& faults, const std::string& expected) {
  CAPTURE(command.front());
  CAPTURE(faults);
  check_error(run(command + Words{"--device", "cuda", "--quiet"}, faults), 1, expected);
}

TEST_CASE("a driver that cannot be used: devices says why, cuda is refused, auto takes the CPU and says why") {
  const Words logits = {"logits", "--model", "run/seed", "--ids", "ids.json", "--out", "nothing.safetensors"};
  for (const auto& [status, reason] : {std::pair{cudaErrorInsufficientDriver, "the NVIDIA driver is too old"},
                                       {cudaErrorNoDevice, "no CUDA-capable device is detected"},
                                       {cudaErrorInitializationError, "initialization error"}}) {
    const std::string none = fault("cudaGetDeviceCount:1+", status);
    CAPTURE(reason);
    const std::string listed = succeed(run({"devices"}, none)).output;
    CAPTURE(listed);
    CHECK(listed.find(std::string("cuda    cannot be used: ") + reason) != std::string::npos);
    check_fault(logits, none, reason);
    CHECK_FALSE(fs::exists(place() / "nothing.safetensors"));
    const Outcome outcome = succeed(run(logits + Words{"--device", "auto"}, none));
    CHECK(outcome.errors.starts_with("device: cpu ("));
    CHECK(outcome.errors.find(reason) != std::string::npos);
    fs::remove(place() / "nothing.safetensors");
  }
}

TEST_CASE("cluster: nothing is left where the run would have been") {
  const Words cluster = kCluster + Words{"--out", "nothing"};
  check_fault(cluster, fault("cudaMalloc:8+", cudaErrorMemoryAllocation), "of GPU memory, but only");
  check_fault(cluster, "free:17000000", "of GPU memory, but only");
  check_fault(cluster, fault("launch=tfidf_rows:1", cudaErrorInvalidConfiguration), "launch of tfidf_rows");
  check_fault(cluster, fault("launch=closest_to_latest:2", cudaErrorLaunchFailure), "launch of closest_to_latest");
  check_fault(cluster, fault("cudaEventSynchronize:4+", cudaErrorIllegalAddress), "an illegal memory access");
  for (const char* made : {"router", "shards", "clusters.json"}) CHECK_FALSE(fs::exists(place() / "nothing" / made));
  succeed(run(cluster + Words{"--device", "cuda"}, ""));
  CHECK(fs::exists(place() / "nothing/clusters.json"));
}

TEST_CASE("train_expert: the state before the failure is gone on from") {
  const Words command = train_expert("2");
  check_fault(command, "free:2000000", "but only");
  check_fault(command, fault("launch=adamw_flat:3", cudaErrorLaunchFailure), "expert 002: after step 2 of 4: CUDA: ");
  CHECK_FALSE(fs::exists(place() / "run/experts/002"));
  CHECK(fs::exists(place() / "run/training/expert-002/state-00000002.safetensors"));
  const Outcome resumed = succeed(run(command + Words{"--device", "cuda"}, ""));
  CHECK(resumed.errors.find("goes on after step 2 of 4") != std::string::npos);
  CHECK(fs::exists(place() / "run/experts/002/model.safetensors"));
}

TEST_CASE("logits, evaluate, generate, ensemble: no output, and the one that was there stays") {
  const fs::path out = place() / "result.json";
  const std::string before = "{\n  \"_made_by\": \"cbtm 0\"\n}\n";  // of an earlier command: another file is refused
  std::ofstream(out) << before;
  const Words model = {"--model", "run/experts/000"}, experts = {"--experts", "run/experts"},
              json = {"--json", "result.json"};
  const Words generation = {"--prompt", "oven dough", "--max-new-tokens", "4"};
  const Words logits = Words{"logits"} + model + Words{"--ids", "ids.json", "--out", "logits.safetensors"};
  check_fault(logits, fault("launch=layernorm:2", cudaErrorLaunchOutOfResources), "launch of residual_layernorm");
  check_fault(logits, "free:16800000", "of GPU memory, but only");
  CHECK_FALSE(fs::exists(place() / "logits.safetensors"));
  check_fault(Words{"evaluate", "--run", "run"} + model + json,
              fault("cudaEventSynchronize:1+", cudaErrorECCUncorrectable), "another GPU (--device cuda:N)");
  check_fault(Words{"generate"} + model + generation + json, fault("launch=attention:1", cudaErrorLaunchFailure),
              "CUDA: unspecified launch failure");
  check_fault(Words{"ensemble", "generate"} + experts + generation + json,
              fault("launch=mix_experts:1", cudaErrorLaunchFailure), "CUDA: unspecified launch failure");
  const Words evaluate = Words{"ensemble", "evaluate", "--topk", "1,2"} + experts + json;
  check_fault(evaluate, fault("cudaMemcpyAsync:12", cudaErrorIllegalAddress), "CUDA: an illegal memory access");
  check_fault(evaluate, "free:17000000", "its weights take");
  // Streamed experts: the pinned memory they come from, and their copies.
  const Words streamed = evaluate + Words{"--memory", "150K"};
  const Outcome slower = succeed(
      run(streamed + Words{"--device", "cuda", "--quiet"}, fault("cudaMallocHost:3+", cudaErrorMemoryAllocation)));
  CHECK(slower.errors.find("of pinned memory cannot be had") != std::string::npos);
  std::ofstream(out) << before;
  check_fault(streamed, fault("cudaStreamWaitEvent:3+", cudaErrorLaunchFailure), "CUDA: unspecified launch failure");
  CHECK(file_contents(out) == before);
}

}  // namespace
}  // namespace cbtm
