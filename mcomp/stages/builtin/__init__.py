"""The stages that come with mcomp, one thin file each: options, traits, and a run that calls the library."""
