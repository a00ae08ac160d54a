#include "runtime/nccl_library.h"

#include "cbtm/device/device_error.h"
#include "runtime/call_place.h"
#include "runtime/library.h"

namespace cbtm::cuda {
namespace {

#if CBTM_LINKED_NCCL

#define CBTM_FIND(name) name

#else

Library open_library() {
  return Library("NCCL", fmt::format("libnccl.so.{}", NCCL_MAJOR), "training on several GPUs needs it",
                 fmt::format("libnccl{}", NCCL_MAJOR));
}

#define CBTM_FIND(name) library.find<decltype(name)>(#name)

#endif

Nccl load() {
#if !CBTM_LINKED_NCCL
  const Library library = open_library();
#endif
  return {
      .get_error_string = CBTM_FIND(ncclGetErrorString),
      .get_last_error = CBTM_FIND(ncclGetLastError),
      .comm_init_all = CBTM_FIND(ncclCommInitAll),
      .comm_destroy = CBTM_FIND(ncclCommDestroy),
      .comm_abort = CBTM_FIND(ncclCommAbort),
      .comm_get_async_error = CBTM_FIND(ncclCommGetAsyncError),
      .reduce_scatter = CBTM_FIND(ncclReduceScatter),
      .all_reduce = CBTM_FIND(ncclAllReduce),
      .all_gather = CBTM_FIND(ncclAllGather),
  };
}

#undef CBTM_FIND

}  // namespace

const Nccl& nccl() {
  static const Nccl functions = load();  // a throw leaves it unset: the next call tries again
  return functions;
}

void fail_nccl(ncclResult_t status, ncclComm_t communicator, const char* what, const char* file, int line) {
  const char* detail = nccl().get_last_error(communicator);
  fail_device(
      "NCCL: {}{}{} at {}; run the same command once more, with NCCL_DEBUG=WARN for its own account, or on one GPU "
      "(--device cuda:0)",
      nccl().get_error_string(status), detail != nullptr && *detail != 0 ? ": " : "", detail != nullptr ? detail : "",
      call_place(what, file, line));
}

}  // namespace cbtm::cuda
