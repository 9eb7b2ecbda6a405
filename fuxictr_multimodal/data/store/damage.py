"""What a user can do about a damaged dataset, in the words of every error."""

BUILD_AGAIN = "build the dataset again with fxmm build --overwrite"
