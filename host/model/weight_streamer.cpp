#include "cbtm/model/weight_streamer.h"

#include <algorithm>
#include <new>
#include <utility>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"

namespace cbtm {

namespace {

std::shared_ptr<void> ordinary_memory(int64_t bytes) {
  return {::operator new (static_cast<size_t>(bytes), std::align_val_t{64}),
          [](void* data) { ::operator delete (data, std::align_val_t{64}); }};
}

}  // namespace

/// Room for one image. `reading`, where a file is read first, is ready when the copy has been started (or could not
/// be); it gives the image, if that is to be kept. `arriving`: operators have not been told yet to wait for the copy.
struct WeightStreamer::Slot {
  DeviceBuffer buffer;
  void* image = nullptr;  ///< in `buffer`, or in a mapped file
  int64_t bytes = 0;      ///< that count
  int64_t model = -1;     ///< -1: empty
  int64_t last_used = 0;
  std::unique_ptr<Upload> upload;
  Reading reading;
  bool arriving = false;
};

WeightStreamer::WeightStreamer(Device& device, MemoryBudget& budget, int64_t model_count)
    : device_(device), uploads_(device.uploads()), budget_(budget), model_count_(model_count) {
  CBTM_ASSERT(budget.bytes() > 0, "who makes a budget knows its bound");
  budget_.add_holder([this] { return bytes(); });
}

// Copies read pinned memory and write slots, so they end before those are freed.
WeightStreamer::~WeightStreamer() {
  if (last_read_.valid()) last_read_.wait();
  if (uploads_ == nullptr) return;
  try {
    uploads_->synchronize();
  } catch (const Error& error) {
    warn(error.what());
  }
}

int64_t WeightStreamer::add(WeightSource& source, int64_t resident_bytes) {
  if (!planned_) plan(source, resident_bytes);
  models_.push_back({.source = &source, .resident_bytes = resident_bytes, .host_image = nullptr});
  budget_.note();
  return static_cast<int64_t>(models_.size()) - 1;
}

/// All models are taken to be as large as the first.
void WeightStreamer::plan(const WeightSource& source, int64_t resident_bytes) {
  planned_ = true;
  image_bytes_ = source.image_bytes();
  const int64_t left = std::max<int64_t>(0, budget_.bytes() - model_count_ * resident_bytes);
  const int64_t fitting = left / image_bytes_;
  if (fitting == 0)
    fail(
        "{}: its weights take {}, but weights and caches may take no more than {}; raise --memory, or use a smaller "
        "type "
        "of --weights",
        source.name(), format_bytes(image_bytes_ + model_count_ * resident_bytes), format_bytes(budget_.bytes()));
  if (fitting < model_count_)
    start_streaming(fmt::format("{} of {} models fit in {}, {} each", fitting, model_count_,
                                format_bytes(budget_.bytes()), format_bytes(image_bytes_)));
}

void WeightStreamer::start_streaming(const std::string& why) {
  streamed_ = true;
  if (uploads_ == nullptr) {
    say(why + ": they take turns in memory");
    return;
  }
  kept_max_ = std::min(model_count_, available_memory_bytes() / 2 / image_bytes_);
  if (kept_max_ < model_count_) kept_max_ = std::max<int64_t>(0, kept_max_ - 1);  // one image is the way of the others
  const std::string kept = format_bytes(kept_max_ * image_bytes_);
  say(fmt::format("{}: their weights are streamed from pinned memory, {}", why,
                  kept_max_ == model_count_
                      ? fmt::format("{} for all", kept)
                      : fmt::format("{} for {}; others are read from their files each time", kept, kept_max_)));
}

/// Before a slot is taken from a model.
void WeightStreamer::give_way() {
  if (!streamed_) start_streaming("weights of all models no longer fit beside the key-value caches");
}

void WeightStreamer::remove(int64_t model) {
  if (Slot* slot = slot_of(model)) {
    if (slot == current_) leave_current();
    empty(*slot);
  }
  models_[static_cast<size_t>(model)] = {};
  budget_.note();
}

WeightStreamer::Slot* WeightStreamer::slot_of(int64_t model) {
  for (const std::unique_ptr<Slot>& slot : slots_)
    if (slot->model == model) return slot.get();
  return nullptr;
}

void* WeightStreamer::weights(int64_t model) {
  if (current_ != nullptr && current_->model == model) return current_->image;
  leave_current();
  Slot* slot = slot_of(model);
  if (slot == nullptr) {
    slot = claim(models_[static_cast<size_t>(model)].source->image_bytes(), /*for_now=*/true);
    fill(*slot, model);
  }
  settle(*slot);
  if (slot->arriving) slot->upload->finish();
  slot->arriving = false;
  slot->last_used = ++clock_;
  current_ = slot;
  return slot->image;
}

void WeightStreamer::prefetch(int64_t model) {
  if (uploads_ == nullptr || !streamed_ || slot_of(model) != nullptr) return;
  Slot* slot = claim(models_[static_cast<size_t>(model)].source->image_bytes(), /*for_now=*/false);
  if (slot == nullptr) return;
  fill(*slot, model);
  slot->last_used = ++clock_;
}

/// What operators have read of the current model's weights may be written over once they are done.
void WeightStreamer::leave_current() {
  if (current_ != nullptr && current_->upload != nullptr) current_->upload->release();
  current_ = nullptr;
}

/// Of the slots whose model is not the current one; null if there is none.
WeightStreamer::Slot* WeightStreamer::least_recently_used() {
  Slot* found = nullptr;
  for (const std::unique_ptr<Slot>& slot : slots_)
    if (slot.get() != current_ && (found == nullptr || slot->last_used < found->last_used)) found = slot.get();
  return found;
}

/// An empty slot of so many bytes. If not `for_now`, null where that takes a slot in use.
WeightStreamer::Slot* WeightStreamer::claim(int64_t bytes, bool for_now) {
  for (const std::unique_ptr<Slot>& slot : slots_)
    if (slot->model < 0 && slot->bytes >= bytes) return slot.get();
  while (!budget_.fits(bytes)) {
    Slot* slot = least_recently_used();
    if (slot == nullptr) {
      if (!for_now) return nullptr;
      fail(
          "weights of {} do not fit beside caches and other weights of {}: they may take {}; raise --memory, or ask "
          "for "
          "fewer or shorter texts at once",
          format_bytes(bytes), format_bytes(budget_.used_bytes()), format_bytes(budget_.bytes()));
    }
    give_way();
    if (!empty(*slot)) continue;
    if (slot->bytes >= bytes) return slot;
    drop(*slot);
  }
  slots_.push_back(std::make_unique<Slot>());
  return slots_.back().get();
}

void WeightStreamer::fill(Slot& slot, int64_t number) {
  Model& model = models_[static_cast<size_t>(number)];
  slot.model = number;
  ++loads_;
  try {
    if (slot.image == nullptr) {
      if (uploads_ != nullptr) slot.upload = uploads_->make_upload();
      slot.bytes = model.source->image_bytes();
      const void* mapped = model.source->map_image();
      slot.image = mapped != nullptr ? device_.use_host_memory(mapped) : nullptr;
      if (slot.image == nullptr) {
        slot.buffer = device_.allocate(slot.bytes, model.source->name() + ": weights");
        slot.image = slot.buffer.data();
      }
      budget_.note();
    }
    if (streamed_ && uploads_ != nullptr)
      fill_beside(slot, model);
    else
      fill_now(slot, *model.source);
  } catch (...) {
    slot.model = -1;
    slot.arriving = false;
    if (slot.buffer.data() == nullptr) drop(slot);
    throw;
  }
}

void WeightStreamer::fill_now(Slot& slot, WeightSource& source) {
  ++file_reads_;
  if (slot.buffer.data() == nullptr) return;  // mapped
  const int64_t bytes = source.image_bytes();
  if (device_.use_host_memory(slot.image) != nullptr) {
    source.read_image(slot.image);
  } else if (const void* mapped = source.map_image(); mapped != nullptr) {
    device_.copy_to_device(slot.image, mapped, bytes);
  } else {
    std::vector<char> image(static_cast<size_t>(bytes));
    source.read_image(image.data());
    device_.copy_to_device(slot.image, image.data(), bytes);
  }
  source.unmap_image();
}

/// From pinned memory if the image is there, else by a thread that reads it into pinned memory first.
void WeightStreamer::fill_beside(Slot& slot, Model& model) {
  slot.arriving = true;
  const int64_t bytes = model.source->image_bytes();
  if (model.host_image != nullptr) {
    slot.upload->start(slot.image, model.host_image.get(), bytes);
    return;
  }
  ++file_reads_;
  const bool keep = kept_ < kept_max_;
  if (keep) ++kept_;
  const auto read = [this, &upload = *slot.upload, destination = slot.image, &source = *model.source, bytes, keep,
                     before = last_read_] {
    if (before.valid()) before.wait();
    std::shared_ptr<void> image = keep ? uploads_->allocate_host(bytes) : nullptr;
    const bool kept = image != nullptr;
    if (!kept) {
      uploads_->synchronize();  // the image before this one may still be on its way
      if (staging_bytes_ < bytes) {
        staging_.reset();
        staging_ = uploads_->allocate_host(bytes);
        if (staging_ == nullptr) {
          warn(fmt::format("{} of pinned memory cannot be had: weights come from ordinary memory, which is slower",
                           format_bytes(bytes)));
          staging_ = ordinary_memory(bytes);
        }
        staging_bytes_ = bytes;
      }
      image = staging_;
    }
    source.read_image(image.get());
    source.unmap_image();
    upload.start(destination, image.get(), bytes);
    return kept ? image : nullptr;
  };
  last_read_ = std::async(std::launch::async, read).share();
  slot.reading = last_read_;
}

/// Waits until the copy into the slot has been started.
void WeightStreamer::settle(Slot& slot) {
  if (!slot.reading.valid()) return;
  const Reading reading = std::exchange(slot.reading, {});
  try {
    models_[static_cast<size_t>(slot.model)].host_image = reading.get();
  } catch (...) {
    slot.model = -1;
    slot.arriving = false;
    throw;
  }
}

/// True if the slot is still there: where it is part of a mapped file it goes with the model.
bool WeightStreamer::empty(Slot& slot) {
  if (slot.model < 0) return true;
  settle(slot);
  slot.arriving = false;  // a copy that nobody waited for is before the next one on the same stream
  WeightSource& source = *models_[static_cast<size_t>(std::exchange(slot.model, -1))].source;
  if (slot.buffer.data() != nullptr) return true;
  drop(slot);
  source.unmap_image();
  return false;
}

/// Frees an empty slot.
void WeightStreamer::drop(Slot& slot) {
  if (slot.upload != nullptr) uploads_->synchronize();
  std::erase_if(slots_, [&](const std::unique_ptr<Slot>& one) { return one.get() == &slot; });
  budget_.note();
}

void WeightStreamer::make_room(int64_t bytes, int64_t models_left) {
  while (!budget_.fits(bytes) && static_cast<int64_t>(slots_.size()) > models_left) {
    Slot* slot = least_recently_used();
    if (slot == nullptr) return;
    give_way();
    if (empty(*slot)) drop(*slot);
  }
}

int64_t WeightStreamer::bytes() const {
  int64_t sum = 0;
  for (const std::unique_ptr<Slot>& slot : slots_) sum += slot->bytes;
  for (const Model& model : models_) sum += model.resident_bytes;
  return sum;
}

}  // namespace cbtm
