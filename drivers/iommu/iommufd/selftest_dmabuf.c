// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-bufs for the selftests of iommufd: ranges of addresses without memory, which mock
 * domains do not access.  They are revoked and restored on demand.
 */
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/err.h>
#include <linux/overflow.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "iommufd_private.h"
#include "iommufd_test.h"

#define MOCK_DMABUF_BASE	(1024ULL * SZ_1G)
#define MOCK_DMABUF_MOST_RANGES	64

/**
 * struct mock_dmabuf - a dma-buf of ours
 * @revoked: under dma_resv
 * @nr_maps: mappings that there are; under dma_resv
 * @nr_ranges: number of ranges, all of the same length
 * @ranges: in the buffer's order; the addresses go down, so that none are contiguous
 */
struct mock_dmabuf {
	bool revoked;
	unsigned int nr_maps;
	unsigned int nr_ranges;
	struct dma_buf_phys_range ranges[] __counted_by(nr_ranges);
};

static struct sg_table *mock_dmabuf_map(struct dma_buf_attachment *attach,
					enum dma_data_direction dir)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static void mock_dmabuf_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
			      enum dma_data_direction dir)
{
}

static int mock_dmabuf_pin(struct dma_buf_attachment *attach)
{
	return -EOPNOTSUPP;
}

static void mock_dmabuf_unpin(struct dma_buf_attachment *attach)
{
}

static int mock_dmabuf_map_phys(struct dma_buf_attachment *attach,
				enum dma_data_direction dir, struct dma_buf_phys *phys)
{
	struct mock_dmabuf *mock = attach->dmabuf->priv;

	if (mock->revoked)
		return -ENODEV;
	if (iommufd_should_fail())
		return -ENOMEM;
	mock->nr_maps++;
	*phys = (struct dma_buf_phys) {
		.nr_ranges = mock->nr_ranges,
		.mmio = true,
		.ranges = mock->ranges,
	};
	return 0;
}

static void mock_dmabuf_unmap_phys(struct dma_buf_attachment *attach,
				   struct dma_buf_phys *phys)
{
	struct mock_dmabuf *mock = attach->dmabuf->priv;

	WARN_ON(!mock->nr_maps || phys->ranges != mock->ranges);
	mock->nr_maps--;
}

static void mock_dmabuf_release(struct dma_buf *dmabuf)
{
	struct mock_dmabuf *mock = dmabuf->priv;

	WARN_ON(mock->nr_maps);
	kfree(mock);
}

static const struct dma_buf_ops mock_dmabuf_ops = {
	.map_dma_buf = mock_dmabuf_map,
	.unmap_dma_buf = mock_dmabuf_unmap,
	.pin = mock_dmabuf_pin,
	.unpin = mock_dmabuf_unpin,
	.map_phys = mock_dmabuf_map_phys,
	.unmap_phys = mock_dmabuf_unmap_phys,
	.release = mock_dmabuf_release,
};

static struct dma_buf *mock_dmabuf_get(int fd)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);

	if (IS_ERR(dmabuf) || dmabuf->ops == &mock_dmabuf_ops)
		return dmabuf;
	dma_buf_put(dmabuf);
	return ERR_PTR(-EINVAL);
}

/* Returns the descriptor of a new dma-buf. */
int iommufd_test_dmabuf_new(u32 nr_ranges, u64 range_len)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct mock_dmabuf *mock;
	struct dma_buf *dmabuf;
	unsigned int i;
	int fd;

	if (!nr_ranges || nr_ranges > MOCK_DMABUF_MOST_RANGES || !range_len ||
	    !PAGE_ALIGNED(range_len) || range_len > SZ_1G)
		return -EINVAL;
	mock = kzalloc(struct_size(mock, ranges, nr_ranges), GFP_KERNEL);
	if (!mock)
		return -ENOMEM;
	mock->nr_ranges = nr_ranges;
	for (i = 0; i != nr_ranges; i++) {
		mock->ranges[i].paddr = MOCK_DMABUF_BASE - (i + 1) * 2 * range_len;
		mock->ranges[i].len = range_len;
	}

	info.ops = &mock_dmabuf_ops;
	info.size = nr_ranges * range_len;
	info.flags = O_RDWR;
	info.priv = mock;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		kfree(mock);
		return PTR_ERR(dmabuf);
	}
	fd = dma_buf_fd(dmabuf, O_CLOEXEC);
	if (fd < 0)
		dma_buf_put(dmabuf);
	return fd;
}

/* -EBUSY: revoked, and yet mapped. */
int iommufd_test_dmabuf_revoke(int fd, bool revoke)
{
	struct dma_buf *dmabuf = mock_dmabuf_get(fd);
	struct mock_dmabuf *mock;
	int rc = 0;

	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	mock = dmabuf->priv;
	dma_resv_lock(dmabuf->resv, NULL);
	if (mock->revoked != revoke) {
		mock->revoked = revoke;
		dma_buf_move_notify(dmabuf);
	}
	if (revoke && mock->nr_maps)
		rc = -EBUSY;
	dma_resv_unlock(dmabuf->resv);
	dma_buf_put(dmabuf);
	return rc;
}

/* Where a byte of the dma-buf is, 0: nowhere */
phys_addr_t iommufd_test_dmabuf_paddr(int fd, u64 offset)
{
	struct dma_buf *dmabuf = mock_dmabuf_get(fd);
	struct mock_dmabuf *mock;
	phys_addr_t paddr = 0;

	if (IS_ERR(dmabuf))
		return 0;
	mock = dmabuf->priv;
	if (offset < dmabuf->size) {
		u64 range = div64_u64(offset, mock->ranges[0].len);

		paddr = mock->ranges[range].paddr + offset - range * mock->ranges[0].len;
	}
	dma_buf_put(dmabuf);
	return paddr;
}
