#include "cbtm/cluster/open_router.h"

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/cluster/tfidf_router.h"

namespace cbtm {

std::unique_ptr<Router> open_router(const std::filesystem::path& directory, std::span<const RouterReader> more) {
  recover_directory(directory);
  const std::filesystem::path path = directory / "router.json";
  if (!std::filesystem::exists(path)) fail("{}: there is no such router", path.string());
  const Json json = read_json_file(path);
  if (!json.is_object()) fail("{}: must be an object", path.string());
  const Json named = json.value("kind", Json(TfidfRouter::kKind));
  const std::string kind = named.is_string() ? named.get<std::string>() : "";
  if (kind == TfidfRouter::kKind) return std::make_unique<TfidfRouter>(TfidfRouter::load(directory));
  std::string known = TfidfRouter::kKind;
  for (const RouterReader& reader : more) {
    if (kind == reader.kind) return reader.read(directory);
    known += fmt::format(" and {}", reader.kind);
  }
  fail("{}: kind is {}, but only {} is understood", path.string(), named.dump(), known);
}

}  // namespace cbtm
