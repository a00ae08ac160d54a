#pragma once

#include <string>

#include "cbtm/device/device.h"
#include "cpu/cluster_operators.h"
#include "cpu/model_operators.h"
#include "cpu/optimizer_operators.h"
#include "cpu/simd/kernels.h"

namespace cbtm {

/// The processor as a device. Its operators are beside it, one file a family; loops over values are in simd/, threads
/// are started in this folder only.
class CpuDevice : public Device {
 public:
  CpuDevice();

  std::string description() const override;
  double peak_flops() override;
  int64_t free_bytes() const override;

  void copy_to_device(void* destination, const void* host_source, int64_t bytes) override;
  void copy_to_host(void* host_destination, const void* source, int64_t bytes) override;
  void copy(TensorView destination, ConstTensorView source) override;
  void fill_zero(TensorView destination) override;
  void synchronize() override {}
  const void* host_readable(const void* data) const override { return data; }
  void* use_host_memory(const void* data) const override { return const_cast<void*>(data); }

  ModelOperators& model_operators() override { return model_operators_; }
  OptimizerOperators& optimizer_operators() override { return optimizer_operators_; }
  ClusterOperators& cluster_operators() override { return cluster_operators_; }

 protected:
  void* allocate_bytes(int64_t bytes, std::string_view purpose) override;
  void release_bytes(void* data, int64_t bytes) noexcept override;

 private:
  const cpu::Kernels& kernels_;
  double peak_flops_ = 0;
  CpuModelOperators model_operators_;
  CpuOptimizerOperators optimizer_operators_;
  CpuClusterOperators cluster_operators_;
};

}  // namespace cbtm
