#pragma once

#include <string>

namespace cbtm {

/// What the CUDA runtime is made to do wrong, in this process (set_faults) or in a program that is started with
/// LD_PRELOAD=libcbtm_faults.so and CBTM_FAULT. The library's functions come before the runtime's.
/// Faults are separated by commas:
///   CALL:N:STATUS         the N-th call (from 1) of this function of the runtime fails with this number of a status
///   CALL:N+:STATUS        ... and every one after it
///   launch=PART:N:STATUS  the same for launches of kernels with PART in their (mangled) names
///   nan=PART:N            before the N-th launch of such a kernel, NaN in the first number that its first argument
///                         points to (float32)
///   free:BYTES            so much device memory is free, and no more can be allocated
/// CALL: see the list in faults.cpp. A launch that fails shows in cudaGetLastError, as a real one does.
extern "C" void cbtm_set_faults(const char* faults);

inline void set_faults(const std::string& faults) { cbtm_set_faults(faults.c_str()); }

/// Faults up to the end of a scope.
struct Faults {
  explicit Faults(const std::string& faults) { set_faults(faults); }
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;
  ~Faults() { set_faults(""); }
};

}  // namespace cbtm
