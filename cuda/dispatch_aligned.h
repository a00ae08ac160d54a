#pragma once

namespace cbtm::cuda {

/// Calls function.operator()<kAligned>(): kernels have whether rows begin at whole accesses as a template parameter, so
/// that their loops hold one way to read and not two.
template <typename Function>
void dispatch_aligned(bool aligned, const Function& function) {
  if (aligned) return function.template operator()<true>();
  function.template operator()<false>();
}

}  // namespace cbtm::cuda
