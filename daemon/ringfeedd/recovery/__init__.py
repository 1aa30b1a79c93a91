"""What an earlier daemon of the same ring left: catalogs, files, descriptors, readers that go on."""
