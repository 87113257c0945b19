"""Several engines behind one: replicas on one device, on several, or on other machines."""
