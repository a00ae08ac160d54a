#pragma once

#include <nccl.h>

namespace cbtm::cuda {

/// The functions of NCCL that we call, found in the library when several GPUs are first to train together, or linked
/// (CBTM_STATIC).
struct Nccl {
  decltype(&::ncclGetErrorString) get_error_string;
  decltype(&::ncclGetLastError) get_last_error;
  decltype(&::ncclCommInitAll) comm_init_all;
  decltype(&::ncclCommDestroy) comm_destroy;
  decltype(&::ncclCommAbort) comm_abort;
  decltype(&::ncclCommGetAsyncError) comm_get_async_error;
  decltype(&::ncclReduceScatter) reduce_scatter;
  decltype(&::ncclAllReduce) all_reduce;
  decltype(&::ncclAllGather) all_gather;
};

/// Throws Error that names the package if the library is not there or lacks a function.
const Nccl& nccl();

/// `communicator`: that the call was for, or null.
[[noreturn]] void fail_nccl(ncclResult_t status, ncclComm_t communicator, const char* what, const char* file, int line);
inline void check_nccl(ncclResult_t status, ncclComm_t communicator, const char* what, const char* file, int line) {
  if (status != ncclSuccess) [[unlikely]]
    fail_nccl(status, communicator, what, file, line);
}

}  // namespace cbtm::cuda

/// A call of NCCL: CBTM_NCCL(communicator, nccl().comm_destroy(communicator)). Every status is checked.
#define CBTM_NCCL(communicator, call) ::cbtm::cuda::check_nccl((call), communicator, #call, __FILE__, __LINE__)
