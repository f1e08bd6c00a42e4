// SPDX-License-Identifier: GPL-2.0-only
/*
 * Physical ranges of a PCI device's MMIO as a scatterlist for one importer's device, and
 * back.  There are no struct pages behind a BAR: the entries of the scatterlist have a DMA
 * address and a length, and its CPU side has no entries, so that nobody walks it.
 *
 * DMA from one PCI device to another takes one of two paths.  Below a common switch it uses
 * the addresses of the PCI bus, and there is nothing to set up.  Through a host bridge it
 * uses what the DMA API makes of the physical address, which an IOMMU may translate.
 */
#include <linux/dma-buf-mapping.h>
#include <linux/dma-map-ops.h>
#include <linux/iommu-dma.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>

/* What one mapping may take: enough for 64 GiB in pieces of 64 KiB. */
#define MMIO_MAX_SEGMENTS	(1024 * 1024)

enum { MMIO_PATH_HOST_BRIDGE, MMIO_PATH_BUS };

/**
 * struct mmio_map - ranges mapped for a device
 * @sgt: what the importer sees
 * @dev: the importer's device
 * @path: of its DMA; on the bus there is nothing to undo
 * @nr: number of ranges that are mapped
 * @ranges: the exporter's
 * @addr: DMA address of each; the entries of @sgt are cut
 */
struct mmio_map {
	struct sg_table sgt;
	struct device *dev;
	int path;
	u32 nr;
	const struct dma_buf_phys_range *ranges;
	dma_addr_t addr[];
};

/**
 * dma_buf_mmio_path() - tell which path a device's DMA takes to another's BARs
 * @provider: the device that has the BARs
 * @dev: the importer's device
 *
 * For the exporter's &dma_buf_ops.attach. The path depends on the ACS settings of the
 * bridges between the two, and is valid for as long as these stay as they are.
 *
 * Context: may sleep.
 * Return: at least 0: the path, for dma_buf_map_mmio(); -EREMOTEIO: there is none, or it
 * is not known to work.
 */
int dma_buf_mmio_path(struct pci_dev *provider, struct device *dev)
{
	switch (pci_p2pdma_path(provider, dev)) {
	case PCI_P2PDMA_MAP_BUS_ADDR:
		return MMIO_PATH_BUS;
	case PCI_P2PDMA_MAP_THRU_HOST_BRIDGE:
		return MMIO_PATH_HOST_BRIDGE;
	default:
		return -EREMOTEIO;
	}
}
EXPORT_SYMBOL_NS_GPL(dma_buf_mmio_path, DMA_BUF);

static u64 mmio_bus_address(struct pci_dev *provider, const struct dma_buf_phys_range *range)
{
	struct resource res = DEFINE_RES_MEM(range->paddr, range->len);
	struct pci_bus_region region;

	pcibios_resource_to_bus(provider->bus, &region, &res);
	return region.start;
}

/*
 * Addresses that the DMA API does not translate must be within the device's reach, or it
 * would warn, which a user could provoke.
 */
static bool mmio_in_reach(struct device *dev, u64 addr, u64 len)
{
	return addr + len - 1 <= min_not_zero(dma_get_mask(dev), dev->bus_dma_limit);
}

static int mmio_map_range(struct mmio_map *map, struct pci_dev *provider,
			  const struct dma_buf_phys_range *range, dma_addr_t *dma,
			  enum dma_data_direction dir)
{
	bool on_bus = map->path == MMIO_PATH_BUS;
	u64 addr = on_bus ? mmio_bus_address(provider, range) : range->paddr;

	if (on_bus || (!use_dma_iommu(map->dev) && !get_dma_ops(map->dev)))
		if (!mmio_in_reach(map->dev, addr, range->len))
			return -ERANGE;
	*dma = addr;
	if (on_bus)
		return 0;
	/* The same addresses may be mapped for others: nothing is handed over. */
	*dma = dma_map_resource(map->dev, range->paddr, range->len, dir,
				DMA_ATTR_SKIP_CPU_SYNC);
	return dma_mapping_error(map->dev, *dma) ? -EIO : 0;
}

static void mmio_unmap_ranges(struct mmio_map *map, enum dma_data_direction dir)
{
	if (map->path == MMIO_PATH_BUS)
		return;
	while (map->nr--) {
		dma_unmap_resource(map->dev, map->addr[map->nr], map->ranges[map->nr].len,
				   dir, DMA_ATTR_SKIP_CPU_SYNC);
		cond_resched();
	}
}

/* The length of the entry that begins at @addr, by the device's limits */
static u32 mmio_segment(struct device *dev, dma_addr_t addr, u64 len)
{
	u64 max = min_t(u64, dma_get_max_seg_size(dev), U32_MAX);
	u64 boundary = dma_get_seg_boundary(dev);

	if (max > PAGE_SIZE)
		max = round_down(max, PAGE_SIZE);
	return min3(len - 1, max - 1, boundary - (addr & boundary)) + 1;
}

/*
 * Counts the entries, and fills those from @sg on unless it is NULL.  Stops one after the
 * limit.
 */
static u32 mmio_walk_segments(const struct mmio_map *map, struct scatterlist *sg)
{
	u32 nents = 0;

	for (u32 i = 0; i < map->nr; i++) {
		dma_addr_t addr = map->addr[i];
		u64 left = map->ranges[i].len;

		while (left) {
			u32 len = mmio_segment(map->dev, addr, left);

			if (sg) {
				sg_set_page(sg, NULL, len, 0);
				sg_dma_address(sg) = addr;
				sg_dma_len(sg) = len;
				sg = sg_next(sg);
			}
			addr += len;
			left -= len;
			if (++nents > MMIO_MAX_SEGMENTS)
				return nents;
		}
		cond_resched();
	}
	return nents;
}

static int mmio_fill_sgt(struct mmio_map *map)
{
	u32 nents = mmio_walk_segments(map, NULL);
	int ret;

	if (nents > MMIO_MAX_SEGMENTS)
		return -E2BIG;
	ret = sg_alloc_table(&map->sgt, nents, GFP_KERNEL_ACCOUNT);
	if (ret)
		return ret;
	mmio_walk_segments(map, map->sgt.sgl);
	map->sgt.orig_nents = 0;
	return 0;
}

/**
 * dma_buf_map_mmio() - map ranges of a PCI device's BARs for another device's DMA
 * @provider: the device that has the BARs
 * @dev: the device that does the DMA
 * @path: what dma_buf_mmio_path() returned for the two
 * @ranges: in the BARs, page-aligned; they may overlap. The caller bounds their sum, which
 *	costs page tables, and keeps the array until dma_buf_unmap_mmio()
 * @nr: number of @ranges, at least 1
 * @dir: direction of the DMA
 *
 * For &dma_buf_ops.map_dma_buf of exporters. The entries of the result are within @dev's
 * limits for segments, have no pages, and &sg_table.orig_nents is 0.
 *
 * Context: may sleep.
 * Return: the scatterlist, which dma_buf_unmap_mmio() frees, or
 * * -E2BIG - above a million segments
 * * -EIO - the DMA API cannot map a range
 * * -ENOMEM - out of memory
 * * -ERANGE - @dev cannot address a range
 */
struct sg_table *dma_buf_map_mmio(struct pci_dev *provider, struct device *dev, int path,
				  const struct dma_buf_phys_range *ranges, u32 nr,
				  enum dma_data_direction dir)
{
	struct mmio_map *map;
	int ret;

	map = kvzalloc(struct_size(map, addr, nr), GFP_KERNEL_ACCOUNT);
	if (!map)
		return ERR_PTR(-ENOMEM);
	map->dev = dev;
	map->path = path;
	map->ranges = ranges;
	for (; map->nr < nr; map->nr++) {
		ret = mmio_map_range(map, provider, &ranges[map->nr],
				     &map->addr[map->nr], dir);
		if (ret)
			goto err_unmap;
		cond_resched();
	}
	ret = mmio_fill_sgt(map);
	if (ret)
		goto err_unmap;
	return &map->sgt;

err_unmap:
	mmio_unmap_ranges(map, dir);
	kvfree(map);
	return ERR_PTR(ret);
}
EXPORT_SYMBOL_NS_GPL(dma_buf_map_mmio, DMA_BUF);

/**
 * dma_buf_unmap_mmio() - undo dma_buf_map_mmio()
 * @sgt: what that returned, which is freed
 * @dir: as given there
 *
 * Context: may sleep. No device uses the mapping any more.
 */
void dma_buf_unmap_mmio(struct sg_table *sgt, enum dma_data_direction dir)
{
	struct mmio_map *map = container_of(sgt, struct mmio_map, sgt);

	mmio_unmap_ranges(map, dir);
	/* What was allocated, though orig_nents says none. */
	sgt->orig_nents = sgt->nents;
	sg_free_table(sgt);
	kvfree(map);
}
EXPORT_SYMBOL_NS_GPL(dma_buf_unmap_mmio, DMA_BUF);
