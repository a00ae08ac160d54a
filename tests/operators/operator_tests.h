// The test cases of both devices: each program that includes this file says which device it tests.

#pragma once

#include <doctest/doctest.h>
#include <fmt/ranges.h>

#include "tests/operators/cases.h"
#include "tests/operators/check_case.h"

namespace cbtm {

/// The device whose operators are tested.
Device& device_under_test();

inline void check_cases(const CaseList& cases) {
  for (const NamedCase& named : cases) {
    if (named.large) continue;
    CAPTURE(named.name);
    const OperatorCase one = named.make();
    if (!device_under_test().computes_in(one.computed)) continue;
    const std::string problems = fmt::format("{}", fmt::join(check_case(device_under_test(), one), "\n"));
    CHECK(problems == "");
  }
}

TEST_CASE("linear layers, forward") { check_cases(linear_forward_cases()); }
TEST_CASE("linear layers, backward") { check_cases(linear_backward_cases()); }
TEST_CASE("attention, forward and backward") { check_cases(attention_cases()); }
TEST_CASE("attention over a paged cache") { check_cases(attention_cached_cases()); }
TEST_CASE("embeddings, forward and backward") { check_cases(embedding_cases()); }
TEST_CASE("gathered rows") { check_cases(gather_cases()); }
TEST_CASE("residual, dropout and layer norm, forward and backward") { check_cases(layernorm_cases()); }
TEST_CASE("output layer and cross-entropy") { check_cases(output_loss_cases()); }
TEST_CASE("mixtures of distributions") { check_cases(mixture_cases()); }
TEST_CASE("mixtures of experts: routing, forward and backward") { check_cases(moe_routing_cases()); }
TEST_CASE("mixtures of experts: sorted rows, forward and backward") { check_cases(moe_rows_cases()); }
TEST_CASE("mixtures of experts: linear layers, forward and backward") { check_cases(moe_linear_cases()); }
TEST_CASE("tokens drawn from mixtures") { check_cases(sampling_cases()); }
TEST_CASE("gradient norm, AdamW, and what is not finite") { check_cases(optimizer_cases()); }
TEST_CASE("sparse matrices: tf-idf, transposed copy, product") { check_cases(sparse_cases()); }
TEST_CASE("Gram matrix, and a triangle divided out") { check_cases(gram_cases()); }
TEST_CASE("distances, nearest centres, sums of clusters") { check_cases(distance_cases()); }
TEST_CASE("prices, and assignment at prices") { check_cases(price_cases()); }
TEST_CASE("draws, moves and means of k-means") { check_cases(kmeans_cases()); }

}  // namespace cbtm
