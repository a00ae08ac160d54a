#include "cluster/document_map.h"

#include <doctest/doctest.h>

#include <cmath>

#include "cbtm/base/philox.h"

namespace cbtm {
namespace {

constexpr int64_t kDimensions = 20;

/// Documents around `groups` random points of the unit sphere; document i belongs to group i % groups.
std::vector<float> grouped(int64_t documents, int64_t groups) {
  PhiloxStream random(7, 0);
  std::vector<float> centres(static_cast<size_t>(groups * kDimensions)), rows;
  for (float& value : centres) value = static_cast<float>(random.next_uniform()) - 0.5f;
  for (int64_t i = 0; i < documents; ++i)
    for (int64_t d = 0; d < kDimensions; ++d)
      rows.push_back(centres[static_cast<size_t>(i % groups * kDimensions + d)] +
                     0.2f * (static_cast<float>(random.next_uniform()) - 0.5f));
  return rows;
}

TEST_CASE("a document's nearest neighbours on the map are of its own group, in more groups than the plane has axes") {
  constexpr int64_t kDocuments = 210, kGroups = 7;
  const auto map = document_map(grouped(kDocuments, kGroups), kDocuments, kDimensions);
  REQUIRE(map.size() == kDocuments);
  int64_t strangers = 0;
  for (size_t i = 0; i < map.size(); ++i) {
    size_t nearest = i;
    double least = INFINITY;
    for (size_t j = 0; j < map.size(); ++j) {
      const double distance = std::hypot(map[i][0] - map[j][0], map[i][1] - map[j][1]);
      if (j != i && distance < least) least = distance, nearest = j;
    }
    strangers += nearest % kGroups != i % kGroups;
  }
  CHECK(strangers == 0);
  CHECK(map == document_map(grouped(kDocuments, kGroups), kDocuments, kDimensions));
}

TEST_CASE("few documents and equal ones have places too") {
  for (const int64_t documents : {0, 1, 2, 3, 4, 9})
    for (const bool equal : {false, true}) {
      const std::vector<float> rows =
          equal ? std::vector<float>(static_cast<size_t>(documents * kDimensions), 0.2f) : grouped(documents, 3);
      const auto map = document_map(rows, documents, kDimensions);
      CHECK(map.size() == static_cast<size_t>(documents));
      for (const auto& place : map) CHECK(std::isfinite(place[0] + place[1]));
    }
}

}  // namespace
}  // namespace cbtm
