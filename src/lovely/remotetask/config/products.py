"""The settings of packages, `<product-config>`: ours, or those of the application that this runs in."""
# SPDX-License-Identifier: ZPL-2.1
import sys

from lovely.remotetask.common.checks import cut
from lovely.remotetask.database import zopeapp


#: The name of this package in configuration files, and the keys of its <product-config>.
PRODUCT = 'lovely.remotetask'
PRODUCT_KEYS = ('autostart',)

# The settings of packages, for code that is not handed the configuration: name -> dict.
_products = {}


def setProductConfigurations(mapping):
    """Replace the settings of all packages; `mapping` is name -> dict of strings."""
    settings = {name.lower(): dict(values) for name, values in mapping.items()}
    _products.clear()
    _products.update(settings)


def productConfiguration(name):
    """Return the settings of the package `name`, a dict of strings, or None when there are none.

    In an application that has handed its own to zope.app.appsetup these come first, then those of Zope's zope.conf.
    """
    settings = _appsetupConfiguration(name)
    if settings is None:
        settings = zopeapp.productConfiguration(name)
    if settings is None:
        settings = _products.get(name.lower())
    return None if settings is None else dict(settings)


def checkProduct(name, settings):
    """Raise `ValueError` that names the key when the settings of this package have one that it does not know.

    name -- of the package; all others may have what they like.
    settings -- a dict of strings.
    """
    unknown = sorted(settings.keys() - set(PRODUCT_KEYS)) if name.lower() == PRODUCT else ()
    if unknown:
        raise ValueError(f'<product-config {PRODUCT}>: {cut(unknown[0], 60)!r} is not a known key; the known keys are: '
                         f'{", ".join(PRODUCT_KEYS)}')


def _appsetupConfiguration(name):
    """Return what zope.app.appsetup knows of a package; None when it knows nothing, or is not used."""
    # A module that nobody has imported has been told nothing; importing it here would only take time.
    product = sys.modules.get('zope.app.appsetup.product')
    if product is None:
        return None
    settings = product.getProductConfiguration(name)
    if settings is None:        # ZConfig writes names in lower case, who calls it from Python writes what he likes
        known = {spelling.lower(): values for spelling, values in product.saveConfiguration().items()}
        settings = known.get(name.lower())
    return settings
