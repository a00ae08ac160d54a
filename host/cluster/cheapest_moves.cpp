#include "cluster/cheapest_moves.h"

#include <algorithm>
#include <limits>

#include "cbtm/base/threads.h"

namespace cbtm {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Looking through all members again is cheap where they are few; where they are many, the next best moves are kept.
size_t moves_kept(int64_t points, int64_t clusters) {
  constexpr int64_t kMost = 64, kShare = 8;
  const int64_t kept = points / clusters / kShare;
  return kept < 2 ? 0 : static_cast<size_t>(std::min(kept, kMost));
}

}  // namespace

CheapestMoves::CheapestMoves(std::span<const float> costs, int64_t clusters)
    : costs_(costs),
      clusters_(clusters),
      kept_(moves_kept(static_cast<int64_t>(costs.size()) / clusters, clusters)),
      members_(static_cast<size_t>(clusters)),
      cheapest_(static_cast<size_t>(clusters * clusters), kInfinity),
      cheapest_point_(cheapest_.size(), -1),
      following_(kept_ == 0 ? 0 : cheapest_.size()),
      rows_(static_cast<size_t>(clusters), Row::unknown) {}

void CheapestMoves::assign(std::vector<int32_t> labels) {
  labels_ = std::move(labels);
  place_.resize(labels_.size());
  for (size_t i = 0; i < labels_.size(); ++i) {
    std::vector<int32_t>& members = members_[static_cast<size_t>(labels_[i])];
    place_[i] = static_cast<int32_t>(members.size());
    members.push_back(static_cast<int32_t>(i));
  }
}

const double* CheapestMoves::cheapest(int64_t a) {
  Row& row = rows_[static_cast<size_t>(a)];
  if (row == Row::unknown) {
    find_row(a);
  } else if (row == Row::stale) {
    for (int64_t b = 0; b < clusters_; ++b)
      if (const int32_t point = cheapest_point_[pair(a, b)]; point >= 0 && labels_[static_cast<size_t>(point)] != a)
        repair_pair(a, b);
  }
  row = Row::valid;
  return cheapest_.data() + pair(a, 0);
}

std::vector<int32_t> CheapestMoves::equals(int64_t a, int64_t b, double cost_of_move) const {
  std::vector<int32_t> points;
  for (const int32_t point : members_[static_cast<size_t>(a)])
    if (cost(point, b) - cost(point, a) == cost_of_move) points.push_back(point);
  std::sort(points.begin(), points.end());
  return points;
}

void CheapestMoves::move(int32_t point, int64_t to) {
  const auto i = static_cast<size_t>(point);
  const int64_t from = labels_[i];
  std::vector<int32_t>& left = members_[static_cast<size_t>(from)];
  place_[static_cast<size_t>(left.back())] = place_[i];
  left[static_cast<size_t>(place_[i])] = left.back();
  left.pop_back();
  std::vector<int32_t>& joined = members_[static_cast<size_t>(to)];
  place_[i] = static_cast<int32_t>(joined.size());
  joined.push_back(point);
  labels_[i] = static_cast<int32_t>(to);
  if (rows_[static_cast<size_t>(from)] == Row::valid) rows_[static_cast<size_t>(from)] = Row::stale;
  if (rows_[static_cast<size_t>(to)] == Row::unknown) return;
  for (int64_t b = 0; b < clusters_; ++b) {
    if (b == to) continue;
    const size_t at = pair(to, b);
    const Move arrival{cost(point, b) - cost(point, to), point};
    const Move before{cheapest_[at], cheapest_point_[at]};
    // The cheapest may have left meanwhile: then it is still no dearer than all that stayed.
    if (arrival < before || before.point < 0) {
      cheapest_[at] = arrival.cost;
      cheapest_point_[at] = point;
      if (kept_ > 0 && before.point >= 0) following_[at].moves.push_back(before);
    } else if (kept_ > 0 && arrival.cost <= following_[at].bound) {
      std::vector<Move>& moves = following_[at].moves;
      moves.insert(
          std::upper_bound(moves.begin(), moves.end(), arrival, [](const Move& x, const Move& y) { return y < x; }),
          arrival);
    }
  }
}

void CheapestMoves::find_row(int64_t a) {
  const std::vector<int32_t>& members = members_[static_cast<size_t>(a)];
  parallel_ranges(clusters_, static_cast<double>(members.size() + 1), [&](int64_t begin, int64_t end) {
    if (kept_ > 0) {
      for (int64_t b = begin; b < end; ++b)
        if (b != a) find_pair(a, b);
      return;
    }
    double* least = cheapest_.data() + pair(a, 0);
    int32_t* points = cheapest_point_.data() + pair(a, 0);
    for (const int32_t point : members) {
      const float* row = costs_.data() + point * clusters_;
      const auto here = static_cast<double>(row[a]);
      for (int64_t b = begin; b < end; ++b)
        if (const double change = static_cast<double>(row[b]) - here; change < least[b]) {
          least[b] = change;
          points[b] = point;
        }
    }
    if (begin <= a && a < end) {
      least[a] = kInfinity;
      points[a] = -1;
    }
  });
}

void CheapestMoves::find_pair(int64_t a, int64_t b) {
  const std::vector<int32_t>& members = members_[static_cast<size_t>(a)];
  const size_t at = pair(a, b);
  Move best{kInfinity, -1};
  if (kept_ == 0) {
    for (const int32_t point : members)
      if (const Move move{cost(point, b) - cost(point, a), point}; move < best || best.point < 0) best = move;
  } else {
    Following& following = following_[at];
    std::vector<Move>& moves = following.moves;
    moves.clear();
    following.bound = kInfinity;
    for (const int32_t point : members) moves.push_back({cost(point, b) - cost(point, a), point});
    if (moves.size() > kept_ + 1) {
      std::nth_element(moves.begin(), moves.begin() + static_cast<int64_t>(kept_ + 1), moves.end());
      following.bound = moves[kept_ + 1].cost;
      moves.resize(kept_ + 1);
      moves.shrink_to_fit();
    }
    std::sort(moves.begin(), moves.end(), [](const Move& x, const Move& y) { return y < x; });
    if (!moves.empty()) {
      best = moves.back();
      moves.pop_back();
    }
  }
  cheapest_[at] = best.cost;
  cheapest_point_[at] = best.point;
}

/// The cheapest has left: the next that is still there.
void CheapestMoves::repair_pair(int64_t a, int64_t b) {
  if (kept_ == 0) return find_pair(a, b);
  const size_t at = pair(a, b);
  std::vector<Move>& moves = following_[at].moves;
  while (!moves.empty() && labels_[static_cast<size_t>(moves.back().point)] != a) moves.pop_back();
  if (moves.empty()) return find_pair(a, b);
  cheapest_[at] = moves.back().cost;
  cheapest_point_[at] = moves.back().point;
  moves.pop_back();
}

}  // namespace cbtm
