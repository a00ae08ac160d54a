#pragma once

#include <string>

#include "study/page_numbers.h"

namespace cbtm::study {

/// The parts of the page, in its order; each is HTML, and empty if there is nothing to show.

/// Perplexity over k, a line for each budget, with the best k.
std::string clusters_section(const PageNumbers& numbers);
/// Change against dense over the budget, a line for each k.
std::string gain_section(const PageNumbers& numbers);
/// Perplexity over the experts that are mixed, at the largest budget.
std::string mixed_section(const PageNumbers& numbers);
/// Clusterings and routers compared.
std::string clusterings_section(const PageNumbers& numbers);
/// Main ways of use by tokens, FLOPs and time, with mixtures of experts and larger models.
std::string cost_section(const PageNumbers& numbers);
/// Perplexity of every expert on every cluster.
std::string matrix_section(const PageNumbers& numbers);
/// Few-shot accuracies.
std::string tasks_section(const PageNumbers& numbers);
/// Learning rates that were tried.
std::string rates_section(const PageNumbers& numbers);
/// The twelve relations with their verdicts.
std::string relations_section(const PageNumbers& numbers);

}  // namespace cbtm::study
