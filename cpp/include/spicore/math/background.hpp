// Photons of a pixel where a background adds to the signal.
#pragma once

#include "spicore/host_device.hpp"

namespace spicore {

// Share of the photons expected in a pixel that is signal; 0 where none are expected.
SPI_HD float signal_share(float signal, float background) {
  const float all = signal + background;
  return all > 0.0f ? signal / all : 0.0f;
}

} // namespace spicore
