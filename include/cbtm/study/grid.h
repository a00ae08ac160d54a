#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "cbtm/study/config.h"

namespace cbtm::study {

/// What a system is made of.
enum class SystemKind : uint8_t {
  dense,     ///< one model
  ensemble,  ///< one expert for each cluster
  moe        ///< one mixture-of-experts model, upcycled from the seed
};

/// "dense", "ensemble", "moe".
const char* kind_name(SystemKind kind);
/// Throws Error for another name.
SystemKind parse_kind(const std::string& name);

/// A system of the grid, whatever its learning rate and its random seed.
struct System {
  SystemKind kind = SystemKind::dense;
  bool larger = false;                           ///< of the larger shape
  Clustering clustering = Clustering::balanced;  ///< of an ensemble
  int64_t k = 1;                                 ///< experts
  int64_t budget = 0;                            ///< tokens after branching

  auto operator<=>(const System&) const = default;
  /// "balanced-k4-b16000000", "dense-b16000000", "larger-dense-b16000000": unique, and a file's name.
  std::string name() const;
};

/// A system that is trained and evaluated once.
struct Cell {
  System system;
  double learning_rate = 0;
  uint64_t seed = 0;

  auto operator<=>(const Cell&) const = default;
  /// "balanced-k4-b16000000-r0.006-s1".
  std::string name() const;
};

/// All systems of a study, in the order of their comparison.
std::vector<System> systems_of(const Config& config);

/// All cells, in the order in which they are worked on: by seed, then system, then learning rate.
std::vector<Cell> cells_of(const Config& config);

/// Which cells part `part` (from 1) of `parts` works on: the same on every machine, about equal in `costs` (one for
/// each cell). Each cell, from the most expensive one on, goes to the part with the least work so far.
std::vector<Cell> cells_of_part(const std::vector<Cell>& cells, const std::vector<double>& costs, int64_t part,
                                int64_t parts);

}  // namespace cbtm::study
