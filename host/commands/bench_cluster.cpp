#include "commands/bench_cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "cbtm/base/philox.h"
#include "cbtm/base/threads.h"
#include "cbtm/cluster/kmeans.h"

namespace cbtm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kPointsMax = int64_t{1} << 31;
/// Of a coordinate about its centre's; coordinates of centres lie in [-1, 1]. Clusters overlap, so that k-means works.
constexpr float kSpread = 1.5f;

/// `count` points of `dimensions` coordinates, each near one of `k` random centres.
std::vector<float> random_points(int64_t count, int64_t dimensions, int64_t k, uint64_t seed) {
  const auto coordinates = [&](uint64_t stream, float* out, float spread) {
    PhiloxStream random(seed, stream);
    for (int64_t d = 0; d < dimensions; ++d) out[d] += spread * (2 * uniform_from_bits(random.next_bits()) - 1);
  };
  std::vector<float> centres(static_cast<size_t>(k * dimensions));
  for (int64_t c = 0; c < k; ++c) coordinates(static_cast<uint64_t>(c), centres.data() + c * dimensions, 1);
  std::vector<float> points(static_cast<size_t>(count * dimensions));
  parallel_ranges(count, static_cast<double>(dimensions) * 10, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* const point = points.data() + i * dimensions;
      const float* const centre = centres.data() + i * 7919 % k * dimensions;
      std::copy(centre, centre + dimensions, point);
      coordinates(static_cast<uint64_t>(k + i), point, kSpread);
    }
  });
  return points;
}

}  // namespace

Json bench_cluster(Device& device, const CommandLine& line) {
  const int64_t k = line.integer("k", 1);
  const int64_t dimensions = line.integer("dimensions", 1, 4096);
  const int64_t points = line.integer("points", k, kPointsMax / dimensions);
  KMeansOptions options;
  options.clusters = k;
  options.restarts = 1;
  options.iterations_max = line.integer("iterations", 1);
  options.seed = line.common().seed;
  std::vector<double> times;
  Clock::time_point last;
  options.progress = [&](int64_t, int64_t, double) {
    const Clock::time_point now = Clock::now();
    times.push_back(std::chrono::duration<double>(now - last).count());
    last = now;
  };
  const std::vector<float> rows = random_points(points, dimensions, k, options.seed);
  const Clock::time_point start = last = Clock::now();
  const KMeansResult result = kmeans(device, rows, dimensions, options);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  // The first time holds the choice of the first centres too.
  double sum = 0;
  for (size_t i = 1; i < times.size(); ++i) sum += times[i];
  const double iteration = times.size() > 1 ? sum / static_cast<double>(times.size() - 1) : seconds;
  fmt::print("{:.3f} s an iteration ({} of them), {:.2f} s in all with k-means++ and the copy to the device\n",
             iteration, times.size(), seconds);
  return {{"points", points},
          {"dimensions", dimensions},
          {"k", k},
          {"iterations", times.size()},
          {"seconds_per_iteration", iteration},
          {"seconds", seconds},
          {"objective", result.objective()},
          {"relative_gap", result.relative_gap}};
}

}  // namespace cbtm
