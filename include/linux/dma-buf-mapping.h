/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For exporters of dma-bufs in a PCI device's BARs, for which there are no struct pages:
 * mapping them for importers' devices.
 */
#ifndef _LINUX_DMA_BUF_MAPPING_H
#define _LINUX_DMA_BUF_MAPPING_H

#include <linux/dma-buf.h>

struct pci_dev;

int dma_buf_mmio_path(struct pci_dev *provider, struct device *dev);
struct sg_table *dma_buf_map_mmio(struct pci_dev *provider, struct device *dev, int path,
				  const struct dma_buf_phys_range *ranges, u32 nr,
				  enum dma_data_direction dir);
void dma_buf_unmap_mmio(struct sg_table *sgt, enum dma_data_direction dir);

#endif /* _LINUX_DMA_BUF_MAPPING_H */
