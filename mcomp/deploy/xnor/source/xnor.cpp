// What Python sees: chains of packing, pooling and convolving signs.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"

namespace xnor {
namespace {

using at::Tensor;

const Kernels& kernels(const std::string& path) {
  const bool any = path == "auto";
  const Kernels* found = nullptr;
  if (!found && (any || path == "avx512")) found = avx512();
  if (!found && (any || path == "avx2")) found = avx2();
  if (!found && (any || path == "scalar")) found = scalar();
  TORCH_CHECK(found, "this processor has no `", path, "`");
  return *found;
}

std::vector<std::string> paths() {
  std::vector<std::string> found;
  if (avx512()) found.emplace_back("avx512");
  if (avx2()) found.emplace_back("avx2");
  found.emplace_back("scalar");
  return found;
}

const uint32_t* words_of(const Tensor& tensor) {
  return reinterpret_cast<const uint32_t*>(tensor.const_data_ptr<int32_t>());
}

template <typename T>
const T* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr<T>() : nullptr;
}

int64_t words_for(int64_t channels) { return (channels + WORD - 1) / WORD; }

// Work on [0, size) in pieces of at least `grain`, on the threads that torch has.
template <typename F>
void in_parallel(int64_t size, int64_t grain, const F& work) {
  if (at::get_num_threads() == 1 || size <= grain) {
    if (size > 0) work(0, size);
  } else {
    at::parallel_for(0, size, grain, work);
  }
}

// Whether loops may read `size` numbers of it, where it is there at all.
bool holds(const std::optional<Tensor>& tensor, int64_t size) {
  return !tensor || (tensor->numel() == size && tensor->is_contiguous() && tensor->is_cpu());
}

// Signs of [N, C, H, W], contiguous or channels last: [N, H, W, groups * words]. A bit is x >= threshold (0 where there
// is none), inverted where `flip`, one word per word of a pixel, has a 1.
Tensor pack(const Tensor& input, int64_t channels, int64_t groups, const std::optional<Tensor>& threshold,
            const std::optional<Tensor>& flip, const std::string& path) {
  const Kernels& kernel = kernels(path);
  TORCH_CHECK(input.dim() == 4 && input.scalar_type() == at::kFloat && input.is_cpu(), "[N, C, H, W] in float32");
  const bool rows = !input.is_contiguous() && input.is_contiguous(at::MemoryFormat::ChannelsLast);
  const Tensor x = rows ? input : input.contiguous();
  TORCH_CHECK(x.size(1) == channels && groups > 0 && channels % groups == 0, "images of other channels");
  const int64_t images = x.size(0), plane = x.size(2) * x.size(3);
  const int64_t each = channels / groups, each_words = words_for(each), words = groups * each_words;
  TORCH_CHECK(holds(threshold, channels) && holds(flip, words), "a threshold per channel, a flip per word");
  Tensor packed = at::empty({images, x.size(2), x.size(3), words}, x.options().dtype(at::kInt));
  auto* target = reinterpret_cast<uint32_t*>(packed.mutable_data_ptr<int32_t>());
  const float* source = x.const_data_ptr<float>();
  const float* edge = data_or_null<float>(threshold);
  const int32_t* inverted = data_or_null<int32_t>(flip);
  in_parallel(images * words, 8, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = index / words, word = index % words;
      const int64_t within = word % each_words * WORD, channel = word / each_words * each + within;
      const int64_t size = std::min<int64_t>(WORD, each - within);
      const uint32_t flips = inverted ? static_cast<uint32_t>(inverted[word]) : 0;
      uint32_t* to = target + image * plane * words + word;
      const float* edges = edge ? edge + channel : nullptr;
      const float* from = source + image * channels * plane + (rows ? channel : channel * plane);
      if (rows) {
        kernel.pack_rows(from, channels, size, plane, edges, flips, to, words);
      } else {
        kernel.pack_planes(from, plane, size, plane, edges, flips, to, words);
      }
    }
  });
  return packed;
}

// Max pooling of signs: a window holds a +1 where any of its words has the bit.
Tensor pool(const Tensor& packed, std::array<int64_t, 2> kernel, std::array<int64_t, 2> stride,
            std::array<int64_t, 2> padding, std::array<int64_t, 2> dilation, std::array<int64_t, 2> size) {
  const int64_t images = packed.size(0), height = packed.size(1), width = packed.size(2), words = packed.size(3);
  Tensor pooled = at::zeros({images, size[0], size[1], words}, packed.options());
  const uint32_t* source = words_of(packed);
  auto* target = reinterpret_cast<uint32_t*>(pooled.mutable_data_ptr<int32_t>());
  in_parallel(images * size[0], 8, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = index / size[0], top = index % size[0] * stride[0] - padding[0];
      for (int64_t column = 0; column < size[1]; ++column) {
        const int64_t left = column * stride[1] - padding[1];
        uint32_t* to = target + (index * size[1] + column) * words;
        for (int64_t y = 0; y < kernel[0]; ++y) {
          const int64_t row = top + y * dilation[0];
          if (row < 0 || row >= height) continue;
          for (int64_t x = 0; x < kernel[1]; ++x) {
            const int64_t place = left + x * dilation[1];
            if (place < 0 || place >= width) continue;
            const uint32_t* from = source + ((image * height + row) * width + place) * words;
            for (int64_t word = 0; word < words; ++word) to[word] |= from[word];
          }
        }
      }
    }
  });
  return pooled;
}

struct Geometry {
  std::array<int64_t, 2> kernel, stride, dilation, before, after;  // padding before the first and after the last

  int64_t output(int64_t size, int dim) const {
    return (size + before[dim] + after[dim] - dilation[dim] * (kernel[dim] - 1) - 1) / stride[dim] + 1;
  }
};

// The packed tensor with a border of words without a bit.
Tensor with_border(const Tensor& packed, const Geometry& geometry) {
  const int64_t images = packed.size(0), height = packed.size(1), width = packed.size(2), words = packed.size(3);
  const int64_t wide = width + geometry.before[1] + geometry.after[1];
  const int64_t high = height + geometry.before[0] + geometry.after[0];
  if (wide == width && high == height) return packed;
  Tensor padded = at::zeros({images, high, wide, words}, packed.options());
  const int32_t* source = packed.const_data_ptr<int32_t>();
  int32_t* target = padded.mutable_data_ptr<int32_t>();
  for (int64_t image = 0; image < images; ++image)
    for (int64_t row = 0; row < height; ++row)
      std::memcpy(target + ((image * high + row + geometry.before[0]) * wide + geometry.before[1]) * words,
                  source + (image * height + row) * width * words, sizeof(int32_t) * width * words);
  return padded;
}

// What one group of a window reads, relative to its first word.
std::vector<Run> runs_of(const Geometry& geometry, int64_t width, int64_t words, int64_t group_words) {
  std::vector<Run> runs;
  for (int64_t y = 0; y < geometry.kernel[0]; ++y) {
    for (int64_t x = 0; x < geometry.kernel[1]; ++x) {
      const int64_t offset = (y * geometry.dilation[0] * width + x * geometry.dilation[1]) * words;
      if (!runs.empty() && runs.back().offset + runs.back().words == offset) {
        runs.back().words += group_words;
      } else {
        runs.push_back({offset, group_words});
      }
    }
  }
  return runs;
}

// Where a channel's bit is in the words of a pixel whose groups have `each` channels.
int64_t bit_of(int64_t channel, int64_t each) { return channel / each * words_for(each) * WORD + channel % each; }

// A binary convolution: unequal bits are counted, and become sums of products, which become floats or signs.
class Convolution {
 public:
  Convolution(const Tensor& packed, const Tensor& filters, int64_t outputs, const Geometry& geometry,
              const Tensor& classes, const Tensor& by_class, const Kernels& kernel)
      : kernel_(kernel),
        padded_(with_border(packed, geometry)),
        filters_(filters),
        outputs_(outputs),
        geometry_(geometry),
        classes_(classes),
        by_class_(by_class),
        images_(packed.size(0)),
        height_(geometry.output(packed.size(1), 0)),
        width_(geometry.output(packed.size(2), 1)),
        groups_(filters.size(0)),
        vectors_(filters.size(1)),
        filter_words_(filters.size(2)),
        runs_(runs_of(geometry, padded_.size(2), padded_.size(3), padded_.size(3) / groups_)) {
    TORCH_CHECK(filters.is_contiguous() && packed.is_contiguous() && by_class.is_contiguous(), "contiguous words");
    TORCH_CHECK(height_ > 0 && width_ > 0 && classes.numel() == height_ * width_, "a class per pixel");
    TORCH_CHECK(padded_.size(3) * geometry.kernel[0] * geometry.kernel[1] == filter_words_ * groups_, "other words");
    TORCH_CHECK(outputs % groups_ == 0 && outputs / groups_ <= vectors_ * LANES, "a lane per filter");
    TORCH_CHECK(by_class.dim() == 2 && by_class.size(1) == lanes(), "a number per class and lane");
  }

  Tensor floats(int32_t shift, const Tensor& scale, const std::optional<Tensor>& bias, bool channels_last) const {
    TORCH_CHECK(holds(scale, lanes()) && holds(bias, lanes()), "a scale and a bias per lane");
    const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    Tensor result = at::empty({images_, outputs_, height_, width_}, scale.options(), format);
    const float* factor = scale.const_data_ptr<float>();
    const float* added = data_or_null<float>(bias);
    float* target = result.mutable_data_ptr<float>();
    const int64_t plane = height_ * width_;
    each_tile([&](const Tile& tile, const int32_t* counts, const int32_t* classes) {
      float values[TILE_PIXELS * TILE_VECTORS * LANES];
      const int64_t lanes = tile.vectors * LANES;
      kernel_.scale(counts, classes, by_class(tile), shift, tile.pixels, lanes, factor + tile.lane,
                    added ? added + tile.lane : nullptr, values);
      if (channels_last) {
        for (int64_t pixel = 0; pixel < tile.pixels; ++pixel)
          std::copy_n(values + pixel * lanes, tile.outputs, target + (tile.first + pixel) * outputs_ + tile.output);
        return;
      }
      for (int64_t pixel = 0; pixel < tile.pixels;) {  // a tile may reach into the next image
        const int64_t image = (tile.first + pixel) / plane, inside = (tile.first + pixel) % plane;
        const int64_t size = std::min(tile.pixels - pixel, plane - inside);
        kernel_.transpose(values + pixel * lanes, size, tile.outputs, lanes,
                          target + (image * outputs_ + tile.output) * plane + inside, plane);
        pixel += size;
      }
    });
    return result;
  }

  Tensor signs(const Tensor& flip, int64_t groups) const {
    TORCH_CHECK(holds(flip, groups_ * vectors_) && groups > 0 && outputs_ % groups == 0, "a flip per vector");
    const int64_t each = outputs_ / groups, words = groups * words_for(each);
    // where no group ends inside a word, a register of filters fills half a word
    const bool halves = (groups == 1 || each % WORD == 0) && (groups_ == 1 || outputs_ / groups_ % LANES == 0);
    Tensor result = at::zeros({images_, height_, width_, words}, padded_.options());
    auto* target = reinterpret_cast<uint32_t*>(result.mutable_data_ptr<int32_t>());
    const int32_t* inverted = flip.const_data_ptr<int32_t>();
    each_tile([&](const Tile& tile, const int32_t* counts, const int32_t* classes) {
      uint32_t* to = target + tile.first * words;
      const int32_t* flips = inverted + tile.lane / LANES;
      if (halves && tile.outputs == tile.vectors * LANES) {
        kernel_.compare(counts, classes, by_class(tile), tile.pixels, tile.vectors, flips,
                        reinterpret_cast<uint16_t*>(to) + tile.output / LANES, words * 2);
        return;
      }
      uint16_t masks[TILE_PIXELS * TILE_VECTORS];
      kernel_.compare(counts, classes, by_class(tile), tile.pixels, tile.vectors, flips, masks, TILE_VECTORS);
      for (int64_t lane = 0; lane < tile.outputs; ++lane) {
        const int64_t bit = bit_of(tile.output + lane, each);
        const uint16_t* mask = masks + lane / LANES;
        for (int64_t pixel = 0; pixel < tile.pixels; ++pixel)
          to[pixel * words + bit / WORD] |= (mask[pixel * TILE_VECTORS] >> (lane % LANES) & 1u) << (bit % WORD);
      }
    });
    return result;
  }

 private:
  struct Tile {
    int64_t first, pixels;    // over all images
    int64_t lane, vectors;    // of the filters as packed
    int64_t output, outputs;  // of the filters as counted, which the last vector of a group has fewer of
  };

  int64_t lanes() const { return groups_ * vectors_ * LANES; }

  ByClass by_class(const Tile& tile) const {
    return {by_class_.const_data_ptr<int32_t>() + tile.lane, by_class_.size(1)};
  }

  template <typename F>
  void each_tile(const F& finish) const {
    const int64_t pixels = images_ * height_ * width_;
    in_parallel((pixels + TILE_PIXELS - 1) / TILE_PIXELS, 1, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t first = tile * TILE_PIXELS;
        one_tile(first, std::min<int64_t>(TILE_PIXELS, pixels - first), finish);
      }
    });
  }

  template <typename F>
  void one_tile(int64_t first, int64_t size, const F& finish) const {
    const uint32_t* windows[TILE_PIXELS];
    int32_t classes[TILE_PIXELS];
    find_windows(first, size, windows, classes);
    int32_t counts[TILE_PIXELS * TILE_VECTORS * LANES];
    const int64_t each = outputs_ / groups_, group_words = padded_.size(3) / groups_;
    for (int64_t group = 0; group < groups_; ++group) {
      for (int64_t vector = 0; vector < vectors_; vector += TILE_VECTORS) {
        const int64_t vectors = std::min<int64_t>(TILE_VECTORS, vectors_ - vector), lane = vector * LANES;
        const uint32_t* filters = words_of(filters_) + (group * vectors_ + vector) * filter_words_ * LANES;
        kernel_.count(windows, size, runs_.data(), static_cast<int64_t>(runs_.size()), filters, vectors, filter_words_,
                      counts);
        const Tile tile{first, size, group * vectors_ * LANES + lane, vectors, group * each + lane,
                        std::min(vectors * LANES, each - lane)};
        finish(tile, counts, classes);
      }
      for (int64_t pixel = 0; pixel < size; ++pixel) windows[pixel] += group_words;
    }
  }

  // The first word of each pixel's window, and its class.
  void find_windows(int64_t first, int64_t size, const uint32_t** windows, int32_t* classes) const {
    const int32_t* class_of = classes_.const_data_ptr<int32_t>();
    const int64_t plane = height_ * width_, words = padded_.size(3), wide = padded_.size(2) * words;
    int64_t image = first / plane, row = first % plane / width_, column = first % width_;
    const uint32_t* start = words_of(padded_);
    for (int64_t pixel = 0; pixel < size; ++pixel) {
      windows[pixel] = start + (image * padded_.size(1) + row * geometry_.stride[0]) * wide +
                       column * geometry_.stride[1] * words;
      classes[pixel] = class_of[row * width_ + column];
      if (++column == width_) {
        column = 0;
        if (++row == height_) row = 0, ++image;
      }
    }
  }

  const Kernels& kernel_;
  Tensor padded_, filters_;
  int64_t outputs_;
  Geometry geometry_;
  Tensor classes_, by_class_;
  int64_t images_, height_, width_, groups_, vectors_, filter_words_;
  std::vector<Run> runs_;
};

Geometry geometry_of(const std::array<int64_t, 10>& numbers) {
  Geometry geometry{};
  for (int dim = 0; dim < 2; ++dim) {
    geometry.kernel[dim] = numbers[dim];
    geometry.stride[dim] = numbers[2 + dim];
    geometry.dilation[dim] = numbers[4 + dim];
    geometry.before[dim] = numbers[6 + dim];
    geometry.after[dim] = numbers[8 + dim];
  }
  return geometry;
}

// packed [N, H, W, groups * words], filters [groups, vectors, words, LANES], geometry: kernel, stride, dilation, padding
// before and after; classes [H' * W'], base [classes, groups * vectors * LANES]. A sum is base - (count << shift).
Tensor convolve(const Tensor& packed, const Tensor& filters, int64_t outputs, const std::array<int64_t, 10>& geometry,
                const Tensor& classes, const Tensor& base, int64_t shift, const Tensor& scale,
                const std::optional<Tensor>& bias, bool channels_last, const std::string& path) {
  const Convolution work(packed, filters, outputs, geometry_of(geometry), classes, base, kernels(path));
  return work.floats(static_cast<int32_t>(shift), scale, bias, channels_last);
}

// The same, with the sign of what follows a sum in place of a float, packed for a reader of `groups`: +1 where a count
// is at most its limit, laid out as `base` above, inverted where `flip`, a bit per filter, says so.
Tensor convolve_to_signs(const Tensor& packed, const Tensor& filters, int64_t outputs,
                         const std::array<int64_t, 10>& geometry, const Tensor& classes, const Tensor& limit,
                         const Tensor& flip, int64_t groups, const std::string& path) {
  const Convolution work(packed, filters, outputs, geometry_of(geometry), classes, limit, kernels(path));
  return work.signs(flip, groups);
}

// Steps one after the other, each on what the one before it made.
class Chain {
 public:
  explicit Chain(std::string path) : path_(std::move(path)) {}

  void pack(int64_t channels, int64_t groups, std::optional<Tensor> threshold, std::optional<Tensor> flip) {
    add([=, this](const Tensor& x) { return xnor::pack(x, channels, groups, threshold, flip, path_); });
  }

  void pool(std::array<int64_t, 2> kernel, std::array<int64_t, 2> stride, std::array<int64_t, 2> padding,
            std::array<int64_t, 2> dilation, std::array<int64_t, 2> size) {
    add([=](const Tensor& x) { return xnor::pool(x, kernel, stride, padding, dilation, size); });
  }

  void convolve(Tensor filters, int64_t outputs, std::array<int64_t, 10> geometry, Tensor classes, Tensor base,
                int64_t shift, Tensor scale, std::optional<Tensor> bias, bool channels_last) {
    add([=, this](const Tensor& x) {
      return xnor::convolve(x, filters, outputs, geometry, classes, base, shift, scale, bias, channels_last, path_);
    });
  }

  void convolve_to_signs(Tensor filters, int64_t outputs, std::array<int64_t, 10> geometry, Tensor classes,
                         Tensor limit, Tensor flip, int64_t groups) {
    add([=, this](const Tensor& x) {
      return xnor::convolve_to_signs(x, filters, outputs, geometry, classes, limit, flip, groups, path_);
    });
  }

  Tensor run(Tensor x) const {
    for (const auto& step : steps_) x = step(x);
    return x;
  }

 private:
  template <typename F>
  void add(F step) {
    steps_.emplace_back(std::move(step));
  }

  std::string path_;
  std::vector<std::function<Tensor(const Tensor&)>> steps_;
};

}  // namespace
}  // namespace xnor

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("paths", &xnor::paths);
  pybind11::class_<xnor::Chain>(module, "Chain")
      .def(pybind11::init<std::string>())
      .def("pack", &xnor::Chain::pack)
      .def("pool", &xnor::Chain::pool)
      .def("convolve", &xnor::Chain::convolve)
      .def("convolve_to_signs", &xnor::Chain::convolve_to_signs)
      .def("run", &xnor::Chain::run, pybind11::call_guard<pybind11::gil_scoped_release>());
}
