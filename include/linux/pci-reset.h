/* SPDX-License-Identifier: GPL-2.0-only */
/* Notifier of resets of physical functions, for drivers of virtual functions. */
#ifndef _LINUX_PCI_RESET_H
#define _LINUX_PCI_RESET_H

struct notifier_block;

/* Events of the notifier. */
#define PCI_RESET_PREPARE	0
#define PCI_RESET_DONE		1

int pci_register_reset_notifier(struct notifier_block *nb);
void pci_unregister_reset_notifier(struct notifier_block *nb);

#endif /* _LINUX_PCI_RESET_H */
