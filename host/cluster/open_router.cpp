#include "cbtm/cluster/open_router.h"

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/cluster/tfidf_router.h"

namespace cbtm {
namespace {

struct Kind {
  const char* name;
  std::unique_ptr<Router> (*load)(const std::filesystem::path& directory);
};

/// The first is the kind of files that name none.
constexpr Kind kKinds[] = {{TfidfRouter::kKind, [](const std::filesystem::path& directory) -> std::unique_ptr<Router> {
                              return std::make_unique<TfidfRouter>(TfidfRouter::load(directory));
                            }}};

}  // namespace

std::unique_ptr<Router> open_router(const std::filesystem::path& directory) {
  recover_directory(directory);
  const std::filesystem::path path = directory / "router.json";
  if (!std::filesystem::exists(path)) fail("{}: there is no such router", path.string());
  const Json json = read_json_file(path);
  if (!json.is_object()) fail("{}: must be an object", path.string());
  if (!json.contains("kind")) return kKinds[0].load(directory);
  std::string known;
  for (const Kind& kind : kKinds) {
    if (json["kind"] == kind.name) return kind.load(directory);
    known += (known.empty() ? "" : " and ") + std::string(kind.name);
  }
  fail("{}: kind is {}, but only {} is understood", path.string(), json["kind"].dump(), known);
}

}  // namespace cbtm
