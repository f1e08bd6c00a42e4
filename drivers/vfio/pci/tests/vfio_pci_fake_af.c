// SPDX-License-Identifier: GPL-2.0
/*
 * Gives a conventional PCI device an Advanced Features capability, with a function
 * level reset, for tests of what vfio-pci does when that is asked for: hardware that
 * has one is rare, and QEMU emulates none.
 *
 * The parameter "device" names the device: its bus is given operations that put the
 * capability into what is read.  The device must not have capabilities of its own.
 * Nothing is written through to it at the capability's place.
 */
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>

/* Where the capability is: after the header. */
#define FAKE_AT		PCI_STD_HEADER_SIZEOF
#define FAKE_SIZE	8	/* PCI_CAP_AF_SIZEOF, in whole double words */

static DEFINE_MUTEX(fake_lock);

/* Set before the operations are, and cleared after; under fake_lock. */
static struct pci_dev *fake_pdev;
static struct pci_ops *real_ops;

/* The bytes that differ from the device's: these bits are set. */
static u8 fake_byte(int where)
{
	switch (where) {
	case PCI_STATUS:
		return PCI_STATUS_CAP_LIST;
	case PCI_CAPABILITY_LIST:
		return FAKE_AT;
	case FAKE_AT + PCI_CAP_LIST_ID:
		return PCI_CAP_ID_AF;
	case FAKE_AT + PCI_AF_LENGTH:
		return PCI_CAP_AF_SIZEOF;
	case FAKE_AT + PCI_AF_CAP:
		return PCI_AF_CAP_TP | PCI_AF_CAP_FLR;
	default:
		return 0;
	}
}

static bool is_fake(struct pci_bus *bus, unsigned int devfn)
{
	return bus == fake_pdev->bus && devfn == fake_pdev->devfn;
}

static int fake_read(struct pci_bus *bus, unsigned int devfn, int where, int size,
		     u32 *value)
{
	int ret = real_ops->read(bus, devfn, where, size, value);

	if (ret != PCIBIOS_SUCCESSFUL || !is_fake(bus, devfn))
		return ret;
	if (where >= FAKE_AT && where < FAKE_AT + FAKE_SIZE)
		*value = 0;
	for (int i = 0; i < size; i++)
		*value |= fake_byte(where + i) << 8 * i;
	return ret;
}

static int fake_write(struct pci_bus *bus, unsigned int devfn, int where, int size,
		      u32 value)
{
	if (is_fake(bus, devfn) && where >= FAKE_AT && where < FAKE_AT + FAKE_SIZE)
		return PCIBIOS_SUCCESSFUL;
	return real_ops->write(bus, devfn, where, size, value);
}

static struct pci_ops fake_ops = {
	.read = fake_read,
	.write = fake_write,
};

static void fake_remove(void)
{
	if (!fake_pdev)
		return;
	pci_bus_set_ops(fake_pdev->bus, real_ops);
	pci_dev_put(fake_pdev);
	fake_pdev = NULL;
}

static int fake_add(const char *name)
{
	unsigned int domain, bus, device, function;
	struct pci_dev *pdev;
	u8 first;

	if (sscanf(name, "%x:%x:%x.%x", &domain, &bus, &device, &function) != 4)
		return -EINVAL;
	pdev = pci_get_domain_bus_and_slot(domain, bus, PCI_DEVFN(device, function));
	if (!pdev)
		return -ENODEV;
	pci_read_config_byte(pdev, PCI_CAPABILITY_LIST, &first);
	if (first) {
		pci_dev_put(pdev);
		return -EBUSY;
	}
	fake_pdev = pdev;
	real_ops = pdev->bus->ops;
	pci_bus_set_ops(pdev->bus, &fake_ops);
	return 0;
}

/* An empty name takes the capability away. */
static int fake_set(const char *name, const struct kernel_param *kp)
{
	int ret;

	mutex_lock(&fake_lock);
	fake_remove();
	ret = *skip_spaces(name) ? fake_add(name) : 0;
	mutex_unlock(&fake_lock);
	return ret;
}

static int fake_get(char *buffer, const struct kernel_param *kp)
{
	int ret;

	mutex_lock(&fake_lock);
	ret = sysfs_emit(buffer, "%s\n", fake_pdev ? pci_name(fake_pdev) : "");
	mutex_unlock(&fake_lock);
	return ret;
}

static const struct kernel_param_ops fake_param_ops = {
	.set = fake_set,
	.get = fake_get,
};
module_param_cb(device, &fake_param_ops, NULL, 0644);
MODULE_PARM_DESC(device, "The device that gets the capability: 0000:00:01.0; empty: none");

static int __init fake_init(void)
{
	return 0;
}
module_init(fake_init);

static void __exit fake_exit(void)
{
	mutex_lock(&fake_lock);
	fake_remove();
	mutex_unlock(&fake_lock);
}
module_exit(fake_exit);

MODULE_DESCRIPTION("A fake Advanced Features capability, for tests of vfio-pci");
MODULE_LICENSE("GPL");
MODULE_INFO(test, "Y");
