#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "cbtm/device/device.h"

namespace cbtm {

/// Passes through a model that come again and again, recorded (Device::record; on a GPU a CUDA graph: one launch a
/// pass). A key is everything that the operators depend on besides what they find in the device's memory. The first
/// pass of a key runs call by call, its second is recorded, and from then on the record runs: the same bits each time.
template <typename Key>
class PassRecords {
 public:
  /// Of so many keys the records are kept, those that were used last.
  PassRecords(Device& device, size_t keys_max) : device_(device), keys_max_(keys_max) {}

  void run(Key key, const std::function<void()>& calls) {
    const auto found = std::ranges::find(records_, key, &Record::key);
    if (found == records_.end()) {
      if (records_.size() == keys_max_) records_.pop_back();
      records_.insert(records_.begin(), Record{.key = std::move(key), .operators = nullptr});
      return calls();
    }
    std::rotate(records_.begin(), found, found + 1);
    std::unique_ptr<RecordedOperators>& operators = records_.front().operators;
    if (operators == nullptr || !operators->valid()) operators = device_.record(calls);
    if (operators != nullptr)
      operators->run();
    else
      calls();
  }
  void clear() { records_.clear(); }

 private:
  struct Record {
    Key key;
    std::unique_ptr<RecordedOperators> operators;  ///< null when it has run only once yet
  };
  Device& device_;
  size_t keys_max_;
  std::vector<Record> records_;  ///< the last used first
};

}  // namespace cbtm
