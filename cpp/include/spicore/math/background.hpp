// Photons of a pixel where a background adds to the signal.
#pragma once

#include "spicore/host_device.hpp"

namespace spicore {

// The share of `photons` that is signal, given the expected numbers of both; 0 where none
// are expected.
SPI_HD float signal_part(float photons, float signal, float background) {
  const float all = signal + background;
  return all > 0.0f ? photons * (signal / all) : 0.0f;
}

} // namespace spicore
