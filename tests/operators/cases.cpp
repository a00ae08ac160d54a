#include "tests/operators/cases.h"

#include <iterator>
#include <utility>

namespace cbtm {

CaseList operator_cases() {
  CaseList all;
  for (CaseList (*group)() : {linear_forward_cases, linear_backward_cases, attention_cases, attention_cached_cases,
                              embedding_cases, gather_cases, layernorm_cases, output_loss_cases, mixture_cases,
                              moe_routing_cases, moe_rows_cases, moe_linear_cases, sampling_cases, optimizer_cases,
                              sparse_cases, gram_cases, distance_cases, price_cases, kmeans_cases}) {
    CaseList cases = group();
    std::ranges::move(cases, std::back_inserter(all));
  }
  return all;
}

}  // namespace cbtm
