#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "cbtm/route/mixture.h"

namespace cbtm {

/// A text that grows, as one router sees it. Not thread-safe. Its router must outlive it.
class RoutingContext {
 public:
  virtual ~RoutingContext() = default;

  /// Appends bytes of text. The cut may be inside a character.
  virtual void append(std::string_view bytes) = 0;
  /// Appends one token and the text that it stands for; a special token stands for no text. A router that reads text
  /// needs the text alone.
  virtual void append_token(int32_t id, std::string_view text);
  /// How far each cluster is from the text so far: [clusters], not negative.
  virtual void squared_distances(std::span<double> out) const = 0;
  /// The weights that the distances give: [clusters]. `present` is as in routing_weights().
  void weights(const Mixture& mixture, std::span<const uint8_t> present, std::span<double> out) const;
};

/// A text whose tokens are all known, for Router::distances_along.
struct KnownText {
  std::span<const int32_t> ids;
  std::span<float> squared_distances;  ///< out [ids.size() + 1, clusters]: row n is of the first n tokens
};

/// Says for a growing text how far each cluster, and so its expert, is. A router's data never changes. How experts are
/// mixed is no part of it: a router has defaults for that, which are stored beside its data. Safe to share between
/// threads.
class Router {
 public:
  virtual ~Router() = default;

  /// As --router names it: "tfidf" or "prefix".
  virtual std::string_view kind() const = 0;
  virtual int64_t clusters() const = 0;
  /// A hash of the data alone: equal hashes mean equal distances for every text. Experts record it.
  virtual const std::string& content_hash() const = 0;
  virtual std::unique_ptr<RoutingContext> context() const = 0;
  /// The distances along whole texts, for which a router may read many at once. `text_of` gives the text that a token
  /// stands for, "" for a special one. `check_stop` is called now and then, on any thread; what it throws comes out.
  virtual void distances_along(std::span<const KnownText> texts,
                               const std::function<std::string_view(int32_t)>& text_of,
                               const std::function<void()>& check_stop) const;
  /// How to mix the experts where nobody says otherwise.
  virtual const Mixture& defaults() const = 0;
  /// How many times larger its squared distances are, roughly, than those between vectors of length 1: the scale of its
  /// temperatures.
  virtual double temperature_scale() const { return 1; }
  /// Whether Mixture::distance_power may be other than 2.
  virtual bool takes_distance_power() const { return true; }
  /// Whether its contexts run models on a device, and so may be used by the thread alone that uses the device.
  virtual bool runs_models() const { return false; }
  /// The tokenizer whose ids append_token() takes; "" if it reads text.
  virtual std::string tokenizer_hash() const { return ""; }
  /// Writes the router with these defaults; open_router() reads it. The files appear together, as a directory.
  virtual void save(const std::filesystem::path& directory, const Mixture& defaults) const = 0;
  void save(const std::filesystem::path& directory) const { save(directory, defaults()); }
};

}  // namespace cbtm
