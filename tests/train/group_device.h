#pragma once

#include <cmath>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "cbtm/device/device_error.h"
#include "cbtm/device/optimizer_operators.h"
#include "cpu/cpu_device.h"

namespace cbtm {

/// Where the threads of a group of CPU devices meet.
class MeetingPlace {
 public:
  explicit MeetingPlace(size_t size) : operands(size) {}
  /// Until all have come; throws DeviceError once it is closed.
  void meet() {
    std::unique_lock lock(mutex_);
    const int64_t round = round_;
    if (++arrived_ == operands.size()) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return closed_ || round_ != round; });
    if (round_ == round) fail_device("another device failed");
  }
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

  std::vector<ConstTensorView> operands;  ///< of the operation at work, by rank

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t arrived_ = 0;
  int64_t round_ = 0;
  bool closed_ = false;
};

/// Sums are taken in the order of the ranks, in the type of the operands.
class HostCollectives final : public Collectives {
 public:
  HostCollectives(std::shared_ptr<MeetingPlace> place, size_t rank) : place_(std::move(place)), rank_(rank) {}
  int rank() const override { return static_cast<int>(rank_); }
  int size() const override { return static_cast<int>(place_->operands.size()); }

  void reduce_scatter(ConstTensorView values, TensorView own) override {
    exchange(values, [&] { add_up<float>(own, rank_ * static_cast<size_t>(own.size())); });
  }
  void all_reduce(ConstTensorView values, TensorView sum) override {
    std::vector<double> storage(static_cast<size_t>(sum.size()));
    const TensorView apart{storage.data(), sum.dtype, 1, sum.columns};
    exchange(values, [&] { sum.dtype == DType::f64 ? add_up<double>(apart, 0) : add_up<float>(apart, 0); });
    std::memcpy(sum.data, apart.data, static_cast<size_t>(sum.size() * dtype_bytes(sum.dtype)));
  }
  void all_gather(ConstTensorView own, TensorView all) override {
    const auto bytes = static_cast<size_t>(own.size() * dtype_bytes(own.dtype));
    exchange(own, [&] {
      for (size_t r = 0; r < place_->operands.size(); ++r)
        std::memcpy(static_cast<char*>(all.data) + r * bytes, place_->operands[r].data, bytes);
    });
  }
  void join() override {}
  void wait() override {}
  void abort() noexcept override { place_->close(); }

 private:
  void exchange(ConstTensorView operand, const std::function<void()>& read) {
    place_->operands[rank_] = operand;
    place_->meet();
    read();
    place_->meet();
  }
  template <typename Value>
  void add_up(TensorView sum, size_t first) {
    for (int64_t i = 0; i < sum.size(); ++i) {
      Value total = 0;
      for (const ConstTensorView& operand : place_->operands)
        total += operand.as<Value>()[first + static_cast<size_t>(i)];
      sum.as<Value>()[i] = total;
    }
  }

  std::shared_ptr<MeetingPlace> place_;
  size_t rank_;
};

/// The processor as one of several devices that train together.
class GroupDevice : public CpuDevice {
 public:
  std::vector<std::unique_ptr<Collectives>> connect(std::span<Device* const> devices) override {
    const auto place = std::make_shared<MeetingPlace>(devices.size());
    std::vector<std::unique_ptr<Collectives>> group;
    for (size_t rank = 0; rank < devices.size(); ++rank)
      group.push_back(std::make_unique<HostCollectives>(place, rank));
    return group;
  }
  OptimizerOperators& optimizer_operators() override { return operators_; }

  std::function<void(const AdamW&)> before_adamw;  ///< called before each update, if there
  std::set<int> failing_square_sums;               ///< which of them, from 1, are not finite

 private:
  class Operators : public CpuOptimizerOperators {
   public:
    explicit Operators(const GroupDevice& device) : device_(device) {}
    void adamw(const AdamW& arguments) override {
      if (device_.before_adamw) device_.before_adamw(arguments);
      CpuOptimizerOperators::adamw(arguments);
    }
    void gradient_square_sum(ConstTensorView gradients, TensorView square_sum) override {
      CpuOptimizerOperators::gradient_square_sum(gradients, square_sum);
      if (device_.failing_square_sums.contains(++square_sums_)) *square_sum.as<double>() = INFINITY;
    }

   private:
    const GroupDevice& device_;
    int square_sums_ = 0;
  };

  Operators operators_{*this};
};

/// Some of them.
struct Group {
  explicit Group(size_t size) : devices(size) {
    for (GroupDevice& device : devices) all.push_back(&device);
  }
  std::vector<GroupDevice> devices;
  std::vector<Device*> all;
};

}  // namespace cbtm
