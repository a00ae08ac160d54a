// Experts under a bound on memory: the results of all in memory, bit for bit, and never a byte more.

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "cbtm/base/error.h"
#include "cpu/cpu_device.h"
#include "tests/ensemble/streamed_experts.h"

namespace cbtm {
namespace {

constexpr int64_t kPageBytes = 2 * 2 * 16 * 32 * 4;  // keys and values of two layers, 16 tokens of 32 float32

/// The processor, counting the memory that weights and caches take.
class CountingDevice : public CpuDevice {
 public:
  int64_t bytes = 0, bytes_max = 0;

 protected:
  void* allocate_bytes(int64_t count, std::string_view purpose) override {
    void* data = CpuDevice::allocate_bytes(count, purpose);
    if (purpose.ends_with(": weights") || purpose == "biases and norms" || purpose == "key-value cache") {
      counted_[data] = count;
      bytes_max = std::max(bytes_max, bytes += count);
    }
    return data;
  }
  void release_bytes(void* data, int64_t count) noexcept override {
    if (const auto found = counted_.find(data); found != counted_.end()) {
      bytes -= found->second;
      counted_.erase(found);
    }
    CpuDevice::release_bytes(data, count);
  }

 private:
  std::map<void*, int64_t> counted_;
};

/// The same with copies beside the operators, as late as they may be: none is done before somebody waits for it, and
/// until then the place holds NaNs. Operators that read too early, or a place that is written too early, show.
class LateDevice : public CountingDevice, public UploadStream {
 public:
  UploadStream* uploads() override { return this; }
  std::unique_ptr<Upload> make_upload() override { return std::make_unique<LateUpload>(*this); }
  std::shared_ptr<void> allocate_host(int64_t count) override {
    if (host_bytes_left < count) return nullptr;
    host_bytes_left -= count;
    return {new char[static_cast<size_t>(count)], [](void* data) { delete[] static_cast<char*>(data); }};
  }
  void synchronize() override { copy_until(copies_.size()); }

  int64_t started = 0;
  int64_t host_bytes_left = int64_t{1} << 30;

 private:
  struct Copy {
    void* destination;
    const void* source;
    int64_t bytes;
  };
  class LateUpload : public Upload {
   public:
    explicit LateUpload(LateDevice& device) : device_(device) {}
    void release() override {}
    void start(void* destination, const void* source, int64_t bytes) override {
      const std::lock_guard guard(device_.lock_);
      ++device_.started;
      std::memset(destination, 0xff, static_cast<size_t>(bytes));
      device_.copies_.push_back({destination, source, bytes});
      number_ = ++device_.number_;
    }
    void finish() override { device_.copy_until(number_); }

   private:
    LateDevice& device_;
    size_t number_ = 0;
  };
  /// Copies happen in the order of their start.
  void copy_until(size_t) {
    const std::lock_guard guard(lock_);
    for (; !copies_.empty(); copies_.pop_front())
      std::memcpy(copies_.front().destination, copies_.front().source, static_cast<size_t>(copies_.front().bytes));
  }

  std::mutex lock_;
  std::deque<Copy> copies_;
  size_t number_ = 0;
};

template <typename AnyDevice>
void check_bounded() {
  const ExpertSet experts = golden_experts();
  const GoldenBytes golden;
  CpuDevice unbounded;
  const auto evaluated = evaluate_golden(unbounded, experts, 0);
  for (const int64_t count : {1, 2, 3}) {
    CAPTURE(count);
    AnyDevice device;
    CHECK(evaluate_golden(device, experts, golden.memory(count)) == evaluated);
    CHECK(device.bytes_max == golden.memory(count));  // vectors come with their models, so not a byte is wasted
    CHECK(device.bytes == 0);
  }
  for (const bool greedy : {true, false}) {
    const GoldenGeneration want = generate_golden(unbounded, experts, 0, greedy);
    CHECK(want.statistics.loads == 4);
    for (const int64_t count : {1, 2, 3}) {
      CAPTURE(count);
      AnyDevice device;
      const int64_t memory = golden.memory(count, 24 * kPageBytes);  // 9 caches of 2 pages, and room to grow
      const GoldenGeneration got = generate_golden(device, experts, memory, greedy);
      CHECK(got.ids == want.ids);
      CHECK(got.scores == want.scores);
      CHECK(got.statistics.loads > 4);
      CHECK(got.statistics.bytes_max <= memory);
      CHECK(device.bytes_max <= memory);
      CHECK(device.bytes == 0);
    }
  }
}

TEST_CASE("one, two or three of four experts in memory: the results of all, within the bound") {
  check_bounded<CountingDevice>();
}

TEST_CASE("copies beside the operators: the same, however late they are") { check_bounded<LateDevice>(); }

TEST_CASE("an expert that comes back reads no file while the host has room for its weights; then some do") {
  const ExpertSet experts = golden_experts();
  const GoldenBytes golden;
  const int64_t memory = golden.memory(2, 40 * kPageBytes);
  LateDevice roomy;
  const GoldenGeneration all = generate_golden(roomy, experts, memory, true);
  CHECK(all.statistics.loads > 8);
  CHECK(all.statistics.file_reads == 4);
  CHECK(roomy.started == all.statistics.loads);

  LateDevice narrow;
  narrow.host_bytes_left = 2 * golden.slot;  // two are kept, the others come through ordinary memory
  const GoldenGeneration some = generate_golden(narrow, experts, memory, true);
  CHECK(some.ids == all.ids);
  CHECK(some.scores == all.scores);
  CHECK(some.statistics.file_reads > 4);
}

TEST_CASE(
    "caches that outgrow what is left take the slots of weights, then what is not needed now, then are an error") {
  const ExpertSet experts = golden_experts();
  const GoldenBytes golden;
  CpuDevice unbounded;
  const GoldenGeneration want = generate_golden(unbounded, experts, 0, true, 100);
  CountingDevice device;
  const int64_t memory = golden.memory(4, 40 * kPageBytes);  // 12 caches of 7 pages: 84 of them in the end
  const GoldenGeneration got = generate_golden(device, experts, memory, true, 100);
  CHECK(got.ids == want.ids);
  CHECK(device.bytes_max <= memory);
  CHECK_THROWS_WITH_AS(generate_golden(device, experts, golden.memory(1, 12 * kPageBytes), true, 100),
                       doctest::Contains("--memory"), Error);
  CHECK(device.bytes == 0);
}

TEST_CASE("memory for less than one expert is refused at once, with the numbers") {
  const ExpertSet experts = golden_experts();
  CpuDevice device;
  const int64_t memory = GoldenBytes().memory(1) - 1;
  CHECK_THROWS_WITH_AS(evaluate_golden(device, experts, memory), doctest::Contains("its weights take 261 KiB"), Error);
  CHECK_THROWS_WITH_AS(generate_golden(device, experts, memory, true), doctest::Contains("raise --memory"), Error);
}

}  // namespace
}  // namespace cbtm
