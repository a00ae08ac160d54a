#include "cbtm/route/router.h"

#include <algorithm>
#include <vector>

#include "cbtm/base/threads.h"

namespace cbtm {

void RoutingContext::append_token(int32_t, std::string_view text) { append(text); }

void RoutingContext::weights(const Mixture& mixture, std::span<const uint8_t> present, std::span<double> out) const {
  std::vector<double> distances(out.size());
  squared_distances(distances);
  routing_weights(distances, mixture, present, out);
}

void Router::distances_along(std::span<const KnownText> texts, const std::function<std::string_view(int32_t)>& text_of,
                             const std::function<void()>& check_stop) const {
  const auto columns = static_cast<size_t>(clusters());
  parallel_ranges(static_cast<int64_t>(texts.size()), 1e6, [&](int64_t begin, int64_t end) {
    std::vector<double> row(columns);
    for (const KnownText& text : texts.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin))) {
      check_stop();
      const std::unique_ptr<RoutingContext> growing = context();
      for (size_t n = 0; n <= text.ids.size(); ++n) {
        if (n > 0) growing->append_token(text.ids[n - 1], text_of(text.ids[n - 1]));
        growing->squared_distances(row);
        std::copy(row.begin(), row.end(), text.squared_distances.begin() + static_cast<std::ptrdiff_t>(n * columns));
      }
    }
  });
}

}  // namespace cbtm
