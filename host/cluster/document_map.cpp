#include "cluster/document_map.h"

#include <algorithm>
#include <cmath>

#include "cbtm/base/signals.h"
#include "cluster/symmetric_eigen.h"

namespace cbtm {
namespace {

using Places = std::vector<std::array<double, 2>>;

constexpr const char* kStage = "the map";
constexpr double kPerplexity = 30;
constexpr int kSteps = 500;
constexpr int kExaggeratedSteps = 125;
constexpr double kExaggeration = 12;

/// Coordinates along the two main directions, scaled to a deviation of 1e-4 in the first (Kobak and Berens, 2019).
Places main_plane(const std::vector<float>& embeddings, int64_t documents, int64_t dimensions) {
  const auto value = [&](int64_t row, int64_t d) {
    return static_cast<double>(embeddings[static_cast<size_t>(row * dimensions + d)]);
  };
  std::vector<double> mean(static_cast<size_t>(dimensions), 0.0),
      covariance(static_cast<size_t>(dimensions * dimensions), 0.0);
  for (int64_t row = 0; row < documents; ++row)
    for (int64_t d = 0; d < dimensions; ++d)
      mean[static_cast<size_t>(d)] += value(row, d) / static_cast<double>(documents);
  for (int64_t row = 0; row < documents; ++row)
    for (int64_t i = 0; i < dimensions; ++i)
      for (int64_t j = 0; j < dimensions; ++j)
        covariance[static_cast<size_t>(i * dimensions + j)] +=
            (value(row, i) - mean[static_cast<size_t>(i)]) * (value(row, j) - mean[static_cast<size_t>(j)]);
  const SymmetricEigen eigen = symmetric_eigen(covariance, dimensions);
  Places places(static_cast<size_t>(documents), {0, 0});
  double square = 0;
  for (int64_t row = 0; row < documents; ++row) {
    for (int64_t axis = 0; axis < std::min<int64_t>(2, dimensions); ++axis)
      for (int64_t d = 0; d < dimensions; ++d)
        places[static_cast<size_t>(row)][static_cast<size_t>(axis)] +=
            (value(row, d) - mean[static_cast<size_t>(d)]) * eigen.vectors[static_cast<size_t>(d * dimensions + axis)];
    square += places[static_cast<size_t>(row)][0] * places[static_cast<size_t>(row)][0];
  }
  const double scale = square > 0 ? 1e-4 / std::sqrt(square / static_cast<double>(documents)) : 0;
  for (auto& place : places)
    for (double& coordinate : place) coordinate *= scale;
  return places;
}

/// [documents, documents], symmetric, sum 1: how much two documents are neighbours. Each row's Gaussian is as wide as
/// gives it the perplexity.
std::vector<double> affinities(const std::vector<float>& embeddings, int64_t documents, int64_t dimensions) {
  const auto n = static_cast<size_t>(documents), width = static_cast<size_t>(dimensions);
  const double wanted = std::log(std::min(kPerplexity, std::max(1.0, static_cast<double>(documents - 1) / 3)));
  std::vector<double> result(n * n, 0.0), row(n);
  for (size_t i = 0; i < n; ++i) {
    stop_if_requested(kStage);
    double nearest = INFINITY;
    for (size_t j = 0; j < n; ++j) {
      float square = 0;
      for (size_t d = 0; d < width; ++d) {
        const float difference = embeddings[i * width + d] - embeddings[j * width + d];
        square += difference * difference;
      }
      row[j] = static_cast<double>(square);
      if (j != i) nearest = std::min(nearest, row[j]);
    }
    double precision = 1, low = 0, high = INFINITY;
    std::vector<double> weights(n);
    for (int trial = 0; trial < 60; ++trial) {
      double sum = 0, moment = 0;
      for (size_t j = 0; j < n; ++j) {
        weights[j] = j == i ? 0 : std::exp(-(row[j] - nearest) * precision);
        sum += weights[j];
        moment += weights[j] * (row[j] - nearest);
      }
      for (double& weight : weights) weight /= sum;
      const double entropy = std::log(sum) + precision * moment / sum;
      if (std::abs(entropy - wanted) < 1e-5) break;
      (entropy > wanted ? low : high) = precision;
      precision = std::isinf(high) ? precision * 2 : (low + high) / 2;
    }
    for (size_t j = 0; j < n; ++j) {
      result[i * n + j] += weights[j] / (2 * static_cast<double>(n));
      result[j * n + i] += weights[j] / (2 * static_cast<double>(n));
    }
  }
  return result;
}

}  // namespace

Places document_map(const std::vector<float>& embeddings, int64_t documents, int64_t dimensions) {
  Places places = main_plane(embeddings, documents, dimensions);
  if (documents < 4) return places;
  const auto n = static_cast<size_t>(documents);
  const std::vector<double> p = affinities(embeddings, documents, dimensions);
  const double rate = std::max(50.0, static_cast<double>(documents) / kExaggeration);
  Places velocity(n, {0, 0}), gain(n, {1, 1}), attraction(n), repulsion(n);
  for (int step = 0; step < kSteps; ++step) {
    stop_if_requested(kStage);
    std::fill(attraction.begin(), attraction.end(), std::array<double, 2>{0, 0});
    std::fill(repulsion.begin(), repulsion.end(), std::array<double, 2>{0, 0});
    double sum = 0;
    for (size_t i = 0; i < n; ++i)
      for (size_t j = i + 1; j < n; ++j) {
        const double x = places[i][0] - places[j][0], y = places[i][1] - places[j][1];
        const double kernel = 1 / (1 + x * x + y * y);
        sum += 2 * kernel;
        const double pull = p[i * n + j] * kernel, push = kernel * kernel;
        attraction[i][0] += pull * x, attraction[i][1] += pull * y;
        attraction[j][0] -= pull * x, attraction[j][1] -= pull * y;
        repulsion[i][0] += push * x, repulsion[i][1] += push * y;
        repulsion[j][0] -= push * x, repulsion[j][1] -= push * y;
      }
    const double exaggeration = step < kExaggeratedSteps ? kExaggeration : 1;
    const double momentum = step < kExaggeratedSteps ? 0.5 : 0.8;
    for (size_t i = 0; i < n; ++i)
      for (size_t axis = 0; axis < 2; ++axis) {
        const double gradient = 4 * (exaggeration * attraction[i][axis] - repulsion[i][axis] / sum);
        const bool onward = gradient * velocity[i][axis] < 0;
        gain[i][axis] = std::max(0.01, onward ? gain[i][axis] + 0.2 : gain[i][axis] * 0.8);
        velocity[i][axis] = momentum * velocity[i][axis] - rate * gain[i][axis] * gradient;
        places[i][axis] += velocity[i][axis];
      }
  }
  return places;
}

}  // namespace cbtm
