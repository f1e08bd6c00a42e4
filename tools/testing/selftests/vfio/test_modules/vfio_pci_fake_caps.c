// SPDX-License-Identifier: GPL-2.0
/*
 * Gives a conventional PCI device two capabilities, for tests of what vfio-pci does with
 * them: Advanced Features, with a function level reset, and Power Management, with the
 * states D1 and D2. Hardware that has them is rare, and QEMU emulates none.
 *
 * The parameter "device" names the device: its bus is given operations that put the
 * capabilities into what is read. The device must not have capabilities of its own. What is
 * written there is not passed on; the power state is remembered, and has no effect.
 *
 * The parameter "awake" keeps virtio devices out of system sleep, as long as it is set: the
 * test's root file system is on one that does not come back.
 */
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pm.h>

/* Where the capabilities are: after the header. */
#define FAKE_AF		PCI_STD_HEADER_SIZEOF
#define FAKE_PM		(FAKE_AF + 8)	/* PCI_CAP_AF_SIZEOF, in whole double words */
#define FAKE_END	(FAKE_PM + PCI_PM_SIZEOF)
#define FAKE_PM_CAP	(3 | PCI_PM_CAP_D1 | PCI_PM_CAP_D2)	/* version 3 */

static DEFINE_MUTEX(fake_lock);

/* Set before the operations are, and cleared after; under fake_lock. */
static struct pci_dev *fake_pdev;
static struct pci_ops *real_ops;
static u8 fake_power;	/* written and read under the PCI core's lock */

/* The bytes that differ from the device's: these bits are set. */
static u8 fake_byte(int where)
{
	switch (where) {
	case PCI_STATUS:
		return PCI_STATUS_CAP_LIST;
	case PCI_CAPABILITY_LIST:
		return FAKE_AF;
	case FAKE_AF + PCI_CAP_LIST_ID:
		return PCI_CAP_ID_AF;
	case FAKE_AF + PCI_CAP_LIST_NEXT:
		return FAKE_PM;
	case FAKE_AF + PCI_AF_LENGTH:
		return PCI_CAP_AF_SIZEOF;
	case FAKE_AF + PCI_AF_CAP:
		return PCI_AF_CAP_TP | PCI_AF_CAP_FLR;
	case FAKE_PM + PCI_CAP_LIST_ID:
		return PCI_CAP_ID_PM;
	case FAKE_PM + PCI_PM_PMC:
		return FAKE_PM_CAP & 0xff;
	case FAKE_PM + PCI_PM_PMC + 1:
		return FAKE_PM_CAP >> 8;
	case FAKE_PM + PCI_PM_CTRL:
		return fake_power | PCI_PM_CTRL_NO_SOFT_RESET;
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
	if (where >= FAKE_AF && where < FAKE_END)
		*value = 0;
	for (int i = 0; i < size; i++)
		*value |= fake_byte(where + i) << 8 * i;
	return ret;
}

static int fake_write(struct pci_bus *bus, unsigned int devfn, int where, int size,
		      u32 value)
{
	if (!is_fake(bus, devfn) || where < FAKE_AF || where >= FAKE_END)
		return real_ops->write(bus, devfn, where, size, value);
	if (where == FAKE_PM + PCI_PM_CTRL)
		fake_power = value & PCI_PM_CTRL_STATE_MASK;
	return PCIBIOS_SUCCESSFUL;
}

/* The rest is the bus's: reading and writing may use it. */
static struct pci_ops fake_ops;

static void fake_set_pm(struct pci_dev *pdev, bool there)
{
	pdev->pm_cap = there ? FAKE_PM : 0;
	pdev->d1_support = there;
	pdev->d2_support = there;
	fake_power = 0;
}

static void fake_remove(void)
{
	if (!fake_pdev)
		return;
	fake_set_pm(fake_pdev, false);
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
	fake_ops = *real_ops;
	fake_ops.read = fake_read;
	fake_ops.write = fake_write;
	pci_bus_set_ops(pdev->bus, &fake_ops);
	fake_set_pm(pdev, true);
	return 0;
}

/* An empty name takes the capabilities away. */
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
MODULE_PARM_DESC(device, "The device that gets the capabilities: 0000:00:01.0; empty: none");

static bool awake;

static int awake_set(const char *value, const struct kernel_param *kp)
{
	int ret = param_set_bool(value, kp);
	struct pci_dev *pdev = NULL;

	while (!ret && (pdev = pci_get_device(PCI_VENDOR_ID_REDHAT_QUMRANET, PCI_ANY_ID, pdev)))
		if (pdev->device >= 0x1000 && pdev->device <= 0x107f)
			dev_pm_syscore_device(&pdev->dev, awake);
	return ret;
}

static const struct kernel_param_ops awake_param_ops = {
	.set = awake_set,
	.get = param_get_bool,
};
module_param_cb(awake, &awake_param_ops, &awake, 0644);
MODULE_PARM_DESC(awake, "Whether virtio devices are kept out of system sleep");

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

MODULE_DESCRIPTION("Fake capabilities of a PCI device, for tests of vfio-pci");
MODULE_LICENSE("GPL");
MODULE_INFO(test, "Y");
