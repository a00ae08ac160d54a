#pragma once

#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/device/upload.h"
#include "cbtm/model/memory_budget.h"

namespace cbtm {

/// Weights of a model as one run of bytes, its image, which goes to the device whole.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual const std::string& name() const = 0;  ///< for errors
  virtual int64_t image_bytes() const = 0;
  /// Writes the image into memory of the host. On any thread, but one at a time.
  virtual void read_image(void* image) = 0;
  /// The image within a mapped file, or null where no file holds it as it is; valid until unmap_image().
  virtual const void* map_image() = 0;
  virtual void unmap_image() = 0;
};

/// The weights of models that share a budget. Each model's weights lie in a slot; when there is no room for another
/// slot the model longest out of use gives up its own. Where the device has an UploadStream, the weights of the next
/// model are copied while another computes, and those that have been on the device stay in pinned memory of the host as
/// far as half of what is free there holds them, so that a return reads no file. How that turns out is said once on
/// stderr.
class WeightStreamer {
 public:
  /// `model_count`: models that will be added.
  WeightStreamer(Device& device, MemoryBudget& budget, int64_t model_count);
  ~WeightStreamer();
  WeightStreamer(const WeightStreamer&) = delete;
  WeightStreamer& operator=(const WeightStreamer&) = delete;

  /// Returns the model's number. `resident_bytes`: its weights outside of the image, which stay. The source lives until
  /// remove(). Throws Error if not even one model's weights fit.
  int64_t add(WeightSource& source, int64_t resident_bytes);
  void remove(int64_t model);
  /// The image on the device, for the operators called from now on until another model's weights are asked for.
  void* weights(int64_t model);
  /// Starts bringing the image there, if that can go on beside the operators and takes no slot in use.
  void prefetch(int64_t model);
  /// Drops weights of models, the longest unused first and never those in use, until `bytes` more fit the budget or
  /// only `models_left` models have theirs on the device.
  void make_room(int64_t bytes, int64_t models_left);

  int64_t bytes() const;  ///< on the device now
  /// What the weights of one model will still take, without which nothing can be computed.
  int64_t missing_bytes() const { return slots_.empty() ? image_bytes_ : 0; }
  int64_t loads() const { return loads_; }            ///< times that weights were brought to the device
  int64_t file_reads() const { return file_reads_; }  ///< of those, from a file

 private:
  struct Slot;
  struct Model {
    WeightSource* source = nullptr;
    int64_t resident_bytes = 0;
    std::shared_ptr<void> host_image;  ///< pinned and filled; null while not read or not kept
  };
  using Reading = std::shared_future<std::shared_ptr<void>>;

  void plan(const WeightSource& source, int64_t resident_bytes);
  void start_streaming(const std::string& why);
  void give_way();
  Slot* slot_of(int64_t model);
  Slot* least_recently_used();
  Slot* claim(int64_t bytes, bool for_now);
  void fill(Slot& slot, int64_t model);
  void fill_now(Slot& slot, WeightSource& source);
  void fill_beside(Slot& slot, Model& model);
  void settle(Slot& slot);
  bool empty(Slot& slot);
  void drop(Slot& slot);
  void leave_current();

  Device& device_;
  UploadStream* uploads_;
  MemoryBudget& budget_;
  int64_t model_count_;
  bool planned_ = false;
  bool streamed_ = false;    ///< not all fit
  int64_t image_bytes_ = 0;  ///< of the first model
  int64_t kept_max_ = 0;     ///< images that may stay in pinned memory
  int64_t kept_ = 0;         ///< those that do, or will once they are read
  std::vector<Model> models_;
  std::vector<std::unique_ptr<Slot>> slots_;
  Slot* current_ = nullptr;
  int64_t clock_ = 0;
  std::shared_ptr<void> staging_;  ///< pinned: the way of the images that are not kept
  int64_t staging_bytes_ = 0;
  Reading last_read_;  ///< reads of files follow one another
  int64_t loads_ = 0;
  int64_t file_reads_ = 0;
};

}  // namespace cbtm
